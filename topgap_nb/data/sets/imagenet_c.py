"""``imagenet-c``: ImageNet's validation images under 15 corruptions of 5 severities; on disk.

Hendrycks and Dietterich (2019), folders ``<corruption>/<severity>/<wnid>/``, already at 224 pixels.
For testing only; one corruption at one severity at a time. See ``imagenet``.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.reading import LazyImages
from topgap_nb.data.registry import DataSet
from topgap_nb.data.sets.imagenet import manifest_for_testing
from topgap_nb.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
# Each corruption with AlexNet's top-1 error, averaged over severities, as the publisher gives it.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948,
    "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
HOST = "https://zenodo.org/record/2235448/files"
ARCHIVES = (
    ("noise", "e80562d7f6c3f8834afb1ecf27252745", 22_565_673_785),
    ("blur", "2d8e81fdd8e07fef67b9334fa635e45c", 7_112_704_951),
    ("weather", "33ffea4db4d93fe4a428c40a6ce0c25d", 12_797_438_995),
    ("digital", "89157860d7b10d5797849337ca2e5c03", 7_757_510_705),
)
SOURCE = Source(
    name="imagenet-c",
    folder="imagenet-c",
    needs=tuple(ALEXNET_ERRORS),
    counts={"test": 50_000},
    archives=tuple(
        Archive(f"{HOST}/{name}.tar", f"md5:{md5}", size, "imagenet-c")
        for name, md5, size in ARCHIVES
    ),
    unpacked=52_000_000_000,
)


def _open(split: str, image_size: int, corruption: str, severity: int) -> LazyImages:
    if corruption not in ALEXNET_ERRORS or severity not in SEVERITIES:
        raise UserError(
            f"corruption {corruption!r} at severity {severity} is unknown: use "
            f"{', '.join(ALEXNET_ERRORS)} at 1 to 5"
        )
    folder = SOURCE.home() / corruption / str(severity)
    if not folder.is_dir():
        raise UserError(f"data set 'imagenet-c': {folder} is missing: prepare it again")
    manifest = manifest_for_testing(folder, "imagenet-c", split)
    # The same names stand in every corruption's folder.
    ids = tuple(f"{corruption}/{severity}/{name}" for name in manifest.ids)
    # The publisher has cut the middle out already.
    return LazyImages(replace(manifest, ids=ids, crop=False), image_size)


def mean_corruption_error(errors: Mapping[tuple[str, int], float]) -> float:
    r"""Return the mCE: a network's error under corruption relative to AlexNet's; 1 is AlexNet.

    .. math:: mCE = \frac{1}{15} \sum_c \frac{\frac{1}{5}\sum_s E_{c,s}}{\bar E_c^{AlexNet}}

    Args:
        errors: top-1 error in [0, 1] by (corruption, severity), all 75 of them.

    Raises:
        UserError: some are missing; the message names the first.

    Example:
        AlexNet's own errors give 1: ``{(c, s): e for c, e in ALEXNET_ERRORS.items() for s in
        SEVERITIES}``.
    """
    wanted = [(corruption, severity) for corruption in ALEXNET_ERRORS for severity in SEVERITIES]
    if missing := [pair for pair in wanted if pair not in errors]:
        raise UserError(f"the mCE needs all 75 errors; {len(missing)} lack, first {missing[0]}")
    return mean(
        mean(errors[corruption, severity] for severity in SEVERITIES) / alexnet
        for corruption, alexnet in ALEXNET_ERRORS.items()
    )


OPTIONS = {"corruption": "gaussian_noise", "severity": 1}
IMAGENET_C = DataSet(
    "imagenet-c", "ImageNet's test images under 15 corruptions", _open, OPTIONS, SOURCE
)
