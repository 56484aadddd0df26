"""Open one raster file of a scene with GDAL: local, over HTTP ranges, or from S3.

A failed read raises an error and never becomes nodata. The format is found from the content of the
file, not from its address.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import rasterio
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from catalogs import href_policy, signing
from catalogs.errors import AssetReadError, UnreadableAssetError
from catalogs.scene import Asset, Scene
from pipeline.reading import gdal_opener, http_connections, http_ranges
from pipeline.reading.http_ranges import RangeFile
from pipeline.runtime import cancellation

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
# ^ such a file is refused with its name, which the warning does not state

T = TypeVar("T")

log = logging.getLogger(__name__)

GDAL_CACHE_MB = 128
"""Size of GDAL's block cache in megabytes; GDAL's default is 5 % of the machine's memory."""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # ^ no probing for side-car files: 15 times fewer requests
    "GDAL_NUM_THREADS": 1,
    # ^ dask manages the threads
}

S3_OPTIONS: dict[str, Any] = {
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_MULTIRANGE": "SERIAL",
    # ^ one connection at a time: a provider's limit counts connections
}

DRIVERS = ["GTiff", "JP2OpenJPEG"]
"""Formats that are opened; GDAL chooses between them by the first bytes of a file.

With all of its drivers, GDAL would also open a VRT, which refers to other files.
"""

MAX_OPEN_ATTEMPTS = 3
"""Attempts to open and read a remote asset; each HTTP request is retried as well."""

MAX_READ_THREADS = 16
"""Maximum number of threads that read remote assets; they mostly wait for the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetInfo:
    """Facts about an asset that the reader needs besides its href."""

    scene_id: str
    """Id of the scene, for messages."""

    provider: str
    """Provider whose signing and connection limits apply."""

    nodata: float | None
    """Nodata value from the catalog; None to use the nodata value of the file."""

    modality: str = ""
    """Modality of the scene, for the statistics of bytes and requests."""

    planned: Asset | None = None
    """The asset as it was planned, to be compared with the file; None = nothing is compared."""

    @property
    def label(self) -> str:
        """Return the band and the href, for messages."""
        if self.planned is None:
            return "an asset"
        return f"{self.planned.band} ({href_policy.redact(self.planned.href)})"

    @classmethod
    def from_scene(cls, scene: Scene, asset: Asset) -> AssetInfo:
        """Describe an asset of a scene."""
        return cls(
            scene_id=scene.id,
            provider=scene.provider,
            nodata=asset.nodata,
            modality=scene.modality,
            planned=asset,
        )


def call_with_dataset(href: str, asset: AssetInfo, function: Callable[[Any], T]) -> T:
    """Open an asset and call a function with its rasterio dataset; retry if the asset is remote.

    Args:
        href: unsigned href, as the catalog states it.
        asset: facts about the asset.
        function: reads from the dataset, which is closed afterwards.

    Returns:
        What ``function`` returns.

    Raises:
        AssetReadError: the asset could not be read; several attempts were made if it is remote.
        UnreadableAssetError: neither can a later attempt.
    """
    attempts = MAX_OPEN_ATTEMPTS if href_policy.is_remote(href) else 1
    deadline = time.monotonic() + http_ranges.RETRY_POLICY.deadline
    for attempt in range(1, attempts + 1):
        cancellation.check_cancelled()
        try:
            return _call_with_gdal_path(
                href,
                asset,
                functools.partial(_open_and_call, function),
                deadline=deadline,
                is_retry=attempt > 1,
            )
        except (RasterioError, OSError, http_ranges.RangeReadError) as error:
            reason = _describe_error(error, href)
            is_final = isinstance(error, http_ranges.RangeReadError) and not isinstance(
                error, http_ranges.FileChangedError
            )
            pause = http_ranges.RETRY_POLICY.backoff * 2**attempt
            if is_final or attempt == attempts or time.monotonic() + pause > deadline:
                fact = (
                    f"{asset.scene_id}: {href_policy.redact(href)} cannot be read "
                    f"(opened {attempt} time(s): {reason})."
                )
                if _is_lasting(error, href):
                    raise UnreadableAssetError(
                        f"{fact} {_advise_on_lasting(error)}, or leave the scene out "
                        f"(exclude: [{asset.scene_id}])."
                    ) from None
                raise AssetReadError(fact) from None
                # ^ the chained error could print the signed href
            if "403" in reason:
                signing.forget_token(href)
            log.warning("retry scene=%s attempt=%d reason=%s", asset.scene_id, attempt, reason)
            cancellation.sleep(pause)
    raise AssertionError("unreachable")


def count_read_threads(scenes: Sequence[Scene], cores: int) -> int:
    """Return how many threads should read scenes: more than the cores if assets are remote."""
    providers = {
        scene.provider
        for scene in scenes
        for asset in scene.assets.values()
        if href_policy.is_remote(asset.href)
    }
    return max(
        cores,
        *(min(MAX_READ_THREADS, http_connections.max_connections(name)) for name in providers),
        1,
    )


def _call_with_gdal_path(
    href: str,
    asset: AssetInfo,
    function: Callable[[str], T],
    *,
    deadline: float,
    is_retry: bool,
) -> T:
    """Call a function with a path that GDAL can open."""
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        file = RangeFile(href, asset.provider, deadline, asset.modality)
        file.open()
        with rasterio.Env(**GDAL_OPTIONS):
            return gdal_opener.call_with_path(file, PurePosixPath(parts.path).suffix, function)
    if parts.scheme != "s3":
        with rasterio.Env(**GDAL_OPTIONS):
            return function(href)
    access = signing.sign_with_options(href, asset.provider)
    uncached = {"CPL_VSIL_CURL_NON_CACHED": f"/vsis3/{parts.netloc}"} if is_retry else {}
    # ^ GDAL caches that a path could not be opened
    with (
        http_connections.get_connections(asset.provider).semaphore,
        rasterio.Env(**GDAL_OPTIONS | S3_OPTIONS, **access.gdal_options, **uncached),
    ):
        return function(access.href)


def _describe_error(error: Exception, href: str) -> str:
    """Return what is wrong with a file, in the words of the error that names the cause."""
    cause: BaseException | None = error
    while cause is not None and "previous exception" in str(cause):
        cause = cause.__cause__ or cause.__context__
        # ^ rasterio refers to GDAL's own error, which says what is wrong
    name = PurePosixPath(urlsplit(href).path).name
    message = gdal_opener.name_file(str(cause or error), name)
    return href_policy.redact(" ".join(message.split()).rstrip("."))


def _is_lasting(error: Exception, href: str) -> bool:
    """Return whether no later attempt can read a file: it is not there, or cannot be decoded."""
    if isinstance(error, http_ranges.RangeReadError):
        return isinstance(error, http_ranges.RequestRefusedError | http_ranges.FileTruncatedError)
    if not isinstance(error, RasterioError):
        return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    if urlsplit(href).scheme == "s3":
        return any(sign in str(error) for sign in _LASTING_S3_ERRORS)
    return True
    # ^ of a local file, or of one whose bytes have all been read over HTTP


def _advise_on_lasting(error: Exception) -> str:
    if isinstance(error, http_ranges.RequestRefusedError):
        return "The server refuses it: check its address and your access to it"
    return "Check and replace the file"


_LASTING_S3_ERRORS = (
    "does not exist",
    "not recognized",
    "response code: 403",
    "response code: 404",
    "NoSuchBucket",
    "NoSuchKey",
    "AccessDenied",
    "InvalidAccessKeyId",
)
"""What GDAL says of a file of S3 that no later attempt can read."""


_open_with_credentials = ensure_env_with_credentials(DatasetReader)
# ^ what rasterio.open does, which accepts one driver only


def _open_and_call(function: Callable[[Any], T], path: str) -> T:
    with _open_with_credentials(path, driver=DRIVERS, sharing=False) as dataset:
        return function(dataset)
