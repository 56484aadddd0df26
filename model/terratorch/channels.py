"""Name the channels of a fine-tuned model, from its checkpoint, its training and its user.

A checkpoint may name the bands of an input (`backbone_bands`), and the data module of its training
the channels that it was given (`dataset_bands`, and `output_bands` out of them). Names are those of
TerraTorch (BLUE), of the products (B02), or numbers of the channels of the training's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import ModelError, join_names
from model.terramind.modalities import RasterModality
from model.terratorch.datamodule import Band, TrainingInput

_LISTED = 13
# ^ bands that a message lists: all of one sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelNames:
    """Names of the channels of one input."""

    bands: tuple[str, ...]
    note: str | None = None
    """What was assumed, if anything."""


def translate_band(modality: RasterModality, band: Band) -> str:
    """Return the product's name of a band; the name itself if the modality has no such band."""
    try:
        return modality.bands[modality.band_index(str(band))]
    except ModelError:
        return str(band)


def name_channels(
    modality: RasterModality,
    channels: Sequence[str],
    *,
    declared: bool,
    training: TrainingInput | None,
    stated: Sequence[str] | None,
) -> ChannelNames:
    """Return the names of the channels of one input.

    Args:
        modality: the input.
        channels: names in the model.
        declared: whether the checkpoint states them; otherwise all bands of the modality.
        training: what the training states, if known.
        stated: bands of the statistics that the user states; see :func:`_compare_with_checkpoint`.

    Raises:
        ModelError: another number of names than channels, a name that is not a band, or names of
            the checkpoint and of its training that contradict.
    """
    channels = tuple(translate_band(modality, band) for band in channels)
    if stated is not None:
        bands = tuple(translate_band(modality, band) for band in stated)
        _check_bands(modality, bands, channels, "the job")
        return _compare_with_checkpoint(modality, bands, channels, declared)
    named, note = _name_by_training(modality, channels, declared, training)
    if named is None:
        return ChannelNames(bands=_check_bands(modality, channels, channels, "the checkpoint"))
    _check_bands(modality, named, channels, "the training")
    if declared and named != channels and all(band in modality.bands for band in channels):
        raise ModelError(
            f"{modality.name}: the checkpoint has the bands {join_names(channels, _LISTED)}, but "
            f"its training was given {join_names(named, _LISTED)}. Give the .yaml of the training "
            "that wrote the checkpoint, or the numbers of the checkpoint's bands: "
            f"stats: {{{modality.name}: {{bands: […], mean: […], std: […]}}}}"
        )
    return ChannelNames(bands=named, note=note)


def _compare_with_checkpoint(
    modality: RasterModality, bands: tuple[str, ...], channels: tuple[str, ...], declared: bool
) -> ChannelNames:
    """Return the bands that the user states, compared with those of the checkpoint.

    The same bands in another order are those of a checkpoint that names them: its own order holds.
    Of a checkpoint that does not, the stated order is that of the channels. Other bands than the
    checkpoint names are given to it. What differs is told.
    """
    if bands == channels or not (declared or set(channels) <= set(modality.bands)):
        return ChannelNames(bands=bands)
        # ^ channels that nothing else names
    if declared and set(bands) == set(channels):
        return ChannelNames(bands=channels)
    if declared:
        note = (
            f"the checkpoint names its bands {join_names(channels, _LISTED)}, and is given "
            f"{join_names(bands, _LISTED)}, as the job states"
        )
    else:
        note = (
            f"the checkpoint does not name its bands: they are taken as "
            f"{join_names(bands, _LISTED)}, the order of the job; TerraMind's own order is "
            f"{join_names(modality.bands, _LISTED)}"
        )
    return ChannelNames(bands=bands, note=f"{modality.name}: {note}")


def _name_by_training(
    modality: RasterModality,
    channels: tuple[str, ...],
    declared: bool,
    training: TrainingInput | None,
) -> tuple[tuple[str, ...] | None, str | None]:
    """Return the names that a training states, if it does, and what was assumed."""
    if training is None or (training.dataset_bands is None and training.output_bands is None):
        return None, None
    dataset = training.dataset_bands or training.output_bands or ()
    output = training.output_bands or dataset
    if all(isinstance(band, str) for band in output):
        return tuple(translate_band(modality, band) for band in output), None
    if len(output) != len(channels):
        raise ModelError(
            f"{modality.name}: the training was given {len(output)} channels, "
            f"{join_names(output, _LISTED)}, but the checkpoint has {len(channels)}: give the "
            ".yaml of the training that wrote it"
        )
    first = dataset[0]
    is_whole = first in (0, 1) and list(dataset) == list(range(first, first + len(modality.bands)))
    if is_whole and all(band in dataset for band in output):
        named = tuple(modality.bands[dataset.index(band)] for band in output)
        return named, (
            f"the training numbers the channels of its files and has {len(dataset)} of them: taken "
            f"as {join_names(modality.bands, _LISTED)} in this order"
        )
    agrees = all(
        isinstance(band, int) or translate_band(modality, band) == channel
        for band, channel in zip(output, channels, strict=True)
    )
    is_named = all(band in modality.bands for band in channels)
    if is_named and agrees and (declared or output == dataset):
        return None, None
        # ^ the checkpoint names them, or the files hold just the channels of the model
    raise ModelError(
        f"{modality.name}: the training was given the channels {join_names(output, _LISTED)} of "
        "its files, which are numbers without a name. State the bands in their order: "
        f"stats: {{{modality.name}: {{bands: […], mean: […], std: […]}}}}"
    )


def _check_bands(
    modality: RasterModality, bands: tuple[str, ...], channels: tuple[str, ...], origin: str
) -> tuple[str, ...]:
    """Return the names of channels, if they are bands of the sensor, each once."""
    unknown = [band for band in bands if band not in modality.bands]
    if unknown:
        raise ModelError(
            f"{modality.name}: {join_names(unknown, _LISTED)} of {origin} is no band of the "
            f"sensor; it has {join_names(modality.bands, _LISTED)} (or "
            f"{join_names(modality.aliases, _LISTED)}). State the bands in the order of the model: "
            f"stats: {{{modality.name}: {{bands: […], mean: […], std: […]}}}}"
        )
    if len(bands) != len(channels) or len(set(bands)) < len(bands):
        raise ModelError(
            f"{modality.name}: the checkpoint has {len(channels)} channels, "
            f"{join_names(channels, _LISTED)}, and {origin} names {len(bands)}, "
            f"{join_names(bands, _LISTED)}. Name each channel once, in the order of the model"
        )
    return bands
