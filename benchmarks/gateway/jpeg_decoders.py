"""Answers of a model that is sent the gate's PNG in place of a client's JPEG, beside those with its own decoder.

PORTCULLIS_DATA=FOLDER python benchmarks/gateway/jpeg_decoders.py    with opencv-python-headless and simplejpeg

German traffic signs (32 x 32, 43 classes), whose files the gate decodes with Pillow. "fast DCT" is libjpeg-turbo with
its fast and less exact arithmetic, as servers may choose it. Pictures of 48 x 48 are brought to 32 x 32: by the gate's
`resize = "bilinear"`, and by OpenCV's bilinear resize in the server.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from portcullis_ml.gateway.protocols.image_spec import ImageSpec, Layout
from portcullis_ml.gateway.protocols.picture_files import decoded, png
from portcullis_ml.measures.statistics import clopper_pearson

N, TRAIN, SIDE = 2_000, 4_000, 32
GATE = ImageSpec(resize="bilinear")

Pixels = np.ndarray


def by_opencv(content: bytes) -> Pixels:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def by_fast_dct(content: bytes) -> Pixels:
    return np.asarray(simplejpeg.decode_jpeg(content, fastdct=True))


def resized(decode: Callable[[bytes], Pixels]) -> Callable[[bytes], Pixels]:
    return lambda content: cv2.resize(decode(content), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def jpeg(pixels: Pixels, quality: int, side: int) -> bytes:
    out, image = io.BytesIO(), Image.fromarray(pixels)
    if side != SIDE:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def main() -> None:
    with np.load(Path(os.environ["PORTCULLIS_DATA"]) / "gtsrb32.npz") as held:
        rng = np.random.default_rng(0)
        train = rng.choice(len(held["x_train"]), TRAIN, replace=False)
        test = rng.choice(len(held["x_test"]), N, replace=False)
        x, y, pictures, classes = (
            held["x_train"][train],
            held["y_train"][train],
            held["x_test"][test],
            held["y_test"][test],
        )
    model = make_pipeline(PCA(100, random_state=0), LogisticRegression(max_iter=500)).fit(x.reshape(TRAIN, -1) / 255, y)
    layout = Layout(SIDE, SIDE, 3, False)
    right = np.mean(model.predict(pictures.reshape(N, -1) / 255) == classes)
    print(f"n={N} pictures; the model is right about {right:.1%}")
    print("| client's JPEG | the server's own | pixels that differ | by, at most | labels that change |")
    print("| --- | --- | --- | --- | --- |")
    cases = {"OpenCV": by_opencv, "fast DCT": by_fast_dct}
    for quality, side in ((95, 32), (75, 32), (75, 48)):
        files = [jpeg(p, quality, side) for p in pictures]
        gate = [decoded(f, GATE, layout, GATE.most_pixels) for f in files]
        assert all((by_opencv(png(g)) == g).all() for g in gate[:50])  # a PNG is decoded alike by all
        for name, decode in cases.items():
            own = np.stack([(decode if side == SIDE else resized(decode))(f) for f in files])
            far = np.abs(own.astype(int) - np.stack(gate))
            labels = [model.predict(p.reshape(N, -1) / 255) for p in (own, np.stack(gate))]
            k = int((labels[0] != labels[1]).sum())
            share = clopper_pearson(k, N)
            changed = f"{k} ({k / N:.2%} [{share.low:.2%}, {share.high:.2%}])"
            size, differ = f"quality {quality}, {side} x {side}", f"{(far > 0).mean():.1%}"
            print(f"| {size} | {name} | {differ} | {far.max()} | {changed} |")


if __name__ == "__main__":
    main()
