"""Classifiers from images in [0, 1] to logits. Any other Keras model from images to logits works as well."""

from keras_robust.architectures.cifar_resnet import CifarResNet, ResNet20
from keras_robust.architectures.imagenet_resnet import ResNet
from keras_robust.architectures.inception_v3 import InceptionV3
from keras_robust.architectures.lenet import LeNet
from keras_robust.architectures.preact_resnet import PreActResNet18
from keras_robust.architectures.revnet import RevNet
from keras_robust.architectures.wide_resnet import WideResNet

__all__ = [
    "CifarResNet",
    "InceptionV3",
    "LeNet",
    "PreActResNet18",
    "ResNet",
    "ResNet20",
    "RevNet",
    "WideResNet",
]
