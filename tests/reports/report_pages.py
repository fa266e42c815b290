"""Reads pages as a browser would: tags, references, text and pictures."""

import base64
import html.parser
import io
import xml.etree.ElementTree

import matplotlib.image
import numpy as np

VOID = {"img", "meta", "br", "wbr"}
SVG = "data:image/svg+xml;base64,"


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and visible text; a tag that is closed out of order is an error."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.ids, self.pictures, self.references, self.text = [], [], [], [], ""
        self.open = []
        self.feed(source)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.pictures.append((attributes["alt"], attributes["src"]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def check_self_contained(self):
        """No script, no reference to another file, unique ids, a text alternative for every picture."""
        assert all(reference.startswith("data:image/") for reference in self.references)
        assert not {"script", "link", "iframe", "object", "base"} & set(self.tags)
        assert len(self.ids) == len(set(self.ids))
        assert all(alt for alt, _ in self.pictures)
        for _, uri in self.pictures:
            check_picture(uri)


def check_picture(uri):
    """A PNG that can be decoded, or an SVG that is well-formed."""
    if uri.startswith(SVG):
        assert xml.etree.ElementTree.fromstring(base64.b64decode(uri.removeprefix(SVG))).tag.endswith("svg")
    else:
        assert decode(uri).size


def decode(uri):
    """The pixels of a PNG data URI: (height, width, 3) integers."""
    media_type, content = uri.split(";base64,")
    assert media_type == "data:image/png"
    return np.rint(255 * matplotlib.image.imread(io.BytesIO(base64.b64decode(content)))).astype(int)[..., :3]
