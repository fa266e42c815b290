"""Folders of images, PATH/SPLIT/CLASS/*.jpg or *.png, named "folder:PATH" in the place of a data set."""

import tensorflow_datasets as tfds
from etils import epath

PREFIX = "folder:"


class ImageFolder(tfds.folder_dataset.ImageFolder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's builder of a folder of images, with slices of its splits.

    The images are uint8 with three channels, of any size. The classes are numbered in alphabetical order; a split is in
    a fixed random order that depends on its name and its files' names alone.
    """

    def files(self, split: str) -> tuple[list[str], list[int]]:
        """Returns paths and labels of the images of a split, or of slices such as "train[:90%]", in their order.

        Raises:
            ValueError: if there is no such split, or the slice ends outside it.
        """
        number = {name: index for index, name in enumerate(self.info.features["label"].names)}
        examples = [
            example
            for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(self.info.splits)
            for example in self._split_examples[part.splitname][part.from_ : part.to]
        ]
        return [example.image_path for example in examples], [number[example.label] for example in examples]

    def classes_of(self, split: str) -> set[str]:
        """Returns the names of the classes of which a split has an image."""
        return {example.label for example in self._split_examples[split]}


def open_folder(name: str) -> ImageFolder:
    """Returns the builder of a folder of images.

    Args:
        name: "folder:PATH"; a path in a bucket will do.

    Raises:
        ValueError: if there is no such folder, it has no images where they belong, or its splits do not have images of
            the same classes.
    """
    root = epath.Path(name.removeprefix(PREFIX)).expanduser()
    if not root.is_dir():
        raise ValueError(f"Expected folder:PATH of a folder that is there. Received: name={name!r}")
    builder = ImageFolder(str(root))
    splits = [split for split, info in builder.info.splits.items() if info.num_examples]
    if not splits:
        raise ValueError(
            f"Expected images in {root}/SPLIT/CLASS, in files *.jpg, *.jpeg or *.png. Received: name={name!r}, where "
            "there are none"
        )
    for split in splits:
        missing = sorted(set(builder.info.features["label"].names) - builder.classes_of(split))
        if missing:
            raise ValueError(
                f"Expected images of each class in each split. Received: name={name!r}, where the split {split!r} has "
                f"none of the class {missing[0]!r}" + (f" and {len(missing) - 1} others" if missing[1:] else "")
            )
    return builder
