"""Several workers of a strategy on one machine."""

import json
import socket


def local_cluster(workers: int) -> list[dict[str, str]]:
    """Returns the environment variables of each of so many workers, on ports that are free now."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}
        for index in range(workers)
    ]
