"""Batches that a tf.data service prepares on other machines than the one that trains."""

import socket
import urllib.parse

import tensorflow as tf

SECONDS_TO_ANSWER = 10


def through_service(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Returns the batches of an endless stream of epochs, prepared by the workers of a tf.data service.

    Each worker takes the next epoch that no worker has taken. With one worker the stream equals the local one, bit for
    bit, and a run resumes in it. With several workers, the batches of as many epochs arrive when they are ready. Each
    batch is one of `training_batches`, but the order differs in every run, and a resumed run prepares the epochs again
    that it had begun. Workers must find the data set under the same path as the process that trains.

    Args:
        batches: a stream whose outermost source is the numbers of the epochs.
        address: grpc://HOST:PORT of the dispatcher.

    Raises:
        ValueError: if the address has another form, or nothing answers there.
    """
    parts = urllib.parse.urlsplit(address)
    try:
        if parts.scheme != "grpc" or not parts.hostname or not parts.port:
            raise OSError("another form")
        # Without an answer, TensorFlow would wait forever.
        socket.create_connection((parts.hostname, parts.port), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:  # ValueError: the port is not a number
        raise ValueError(
            "data_service must be the running dispatcher of a tf.data service, grpc://HOST:PORT. "
            f"Received: data_service={address!r} ({error})"
        ) from None
    service = tf.data.experimental.service
    mode = service.ShardingPolicy.DYNAMIC
    return batches.apply(service.distribute(processing_mode=mode, service=address))
