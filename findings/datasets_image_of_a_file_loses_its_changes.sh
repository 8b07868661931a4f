#!/usr/bin/env bash
# datasets 5.2.0, pillow 13.0.0: an image that was opened from a file and then changed is stored as the file.
#
# Valid input: images that Image.open read, on which a box was drawn, or that `thumbnail` made smaller; Dataset.from_list.
# One expects: the images as they are.
# What happens: of an image that has a file name, only the path is stored (encode_pil_image), and a change in place keeps
# the name. Reading the dataset gives the file again: without the box, and in its old size.
# Seen:
#   drawn on: a black pixel became (255, 255, 255)
#   made smaller: (8, 8) became (32, 32)
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
from datasets import Dataset
from PIL import Image, ImageDraw

Image.new("RGB", (32, 32), "white").save("page.png")
drawn, small = Image.open("page.png"), Image.open("page.png")
ImageDraw.Draw(drawn).rectangle((0, 0, 9, 9), fill="black")
small.thumbnail((8, 8))
rows = Dataset.from_list([{"image": drawn}, {"image": small}])
pixel, size = rows[0]["image"].getpixel((1, 1)), rows[1]["image"].size
print(f"drawn on: a black pixel became {pixel}")
print(f"made smaller: {small.size} became {size}")
assert drawn.getpixel((1, 1)) == (0, 0, 0) and small.size == (8, 8)
assert pixel == (255, 255, 255) and size == (32, 32), "changed"
PY
