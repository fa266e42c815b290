"""Batches prepared by a tf.data service, on other machines than the one that trains."""

import socket
import urllib.parse

import tensorflow as tf

SECONDS_TO_ANSWER = 10


def through_service(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Returns the batches of an endless stream of epochs as the workers of a tf.data service prepare them.

    Each worker takes the next epoch that none has taken. With one worker the stream is the one prepared here, bit for
    bit, and a run resumes in it. With several, the batches of as many epochs come as they are ready: each batch is one
    that `training_batches` makes, but their order is another in every run, a pass over the data is as many epochs at
    once, and a run that goes on prepares the epochs anew that it had begun. Workers read the data set under the same
    path as the process that trains.

    Args:
        batches: a stream whose outermost source is the numbers of the epochs.
        address: grpc://HOST:PORT of the dispatcher.

    Raises:
        ValueError: if the address is of another form, or nothing answers there.
    """
    parts = urllib.parse.urlsplit(address)
    try:
        if parts.scheme != "grpc" or not parts.hostname or not parts.port:
            raise OSError("which is of another form")
        socket.create_connection((parts.hostname, parts.port), SECONDS_TO_ANSWER).close()  # TensorFlow waits for ever
    except (OSError, ValueError) as error:  # ValueError: a port that is no number
        raise ValueError(
            f"Expected the dispatcher of a tf.data service at grpc://HOST:PORT. Received: data_service={address!r} "
            f"({error})"
        ) from None
    service = tf.data.experimental.service
    mode = service.ShardingPolicy.DYNAMIC
    return batches.apply(service.distribute(processing_mode=mode, service=address))
