"""The policy for hrefs against hostile hrefs and ids, and signing just before a file is read."""

import contextlib
import datetime as dt
import itertools
import re
import threading
import traceback
import types
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import rasterio
import requests
from rasterio.errors import RasterioIOError

from catalogs import href_policy, providers, signing
from catalogs.errors import InvalidInputError, TransientError
from catalogs.sources import http_client

BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/x/B02.tif"

HOSTILE = [
    "",
    "/etc/passwd",
    "/etc/passwd.tif",
    "../../../../etc/passwd.tif",
    "./a/../../../secret.tif",
    "file:///etc/passwd.tif",
    "file://otherhost/catalog/a.tif",
    "FILE:///etc/passwd.tif",
    "file:/etc/passwd.tif",
    "/vsicurl/https://evil.example/a.tif",
    "/vsicurl?url=https://evil.example/a.tif",
    "/VSIS3/bucket/a.tif",
    "/vsisubfile/0_100,/etc/passwd.tif",
    "/vsizip//vsicurl/https://evil.example/a.zip/a.tif",
    "./x/vsitar/a.tif",
    "vrt:///etc/passwd.tif?bands=1",
    "vrt:///catalog/a.tif",
    "<VRTDataset><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>.tif",
    "GTIFF_DIR:1:/etc/passwd.tif",
    "NETCDF:/etc/passwd.tif",
    "data:image/tiff;base64,AAAA.tif",
    "ftp://sentinel2l2a01.blob.core.windows.net/a.tif",
    "http://sentinel2l2a01.blob.core.windows.net/a.tif",
    "https://evil.example/a.tif",
    "https://sentinel2l2a01.blob.core.windows.net.evil.example/a.tif",
    "https://sentinel2l2a01.blob.core.windows.net@evil.example/a.tif",
    "https://user:word@sentinel2l2a01.blob.core.windows.net/a.tif",
    "https://sentinel2l2a01.blob.core.windows.net:8443/a.tif",
    "https://sentinel2l2a01.blob.core.windows.net:99999/a.tif",
    "https://sentinel2l2a01.blob.core.windows.net./a.tif",
    "https://sentinel2l2a01.blob.core.windows.net/a/../../b.tif",
    "https://sentinel2l2a01.blob.core.windows.net/a/%2e%2e/b.tif",
    "https://sentinel2l2a01.blob.core.windows.net/a.tif#b.tif",
    "https://sentinel2l2a01.blob.core.windows.net/a.vrt",
    "https://sentinel2l2a01.blob.core.windows.net/a.zip?x=.tif",
    "https://127.0.0.1/a.tif",
    "https://localhost/a.tif",
    "https://[::1]/a.tif",
    "https://10.0.0.1/a.tif",
    "https://169.254.169.254/latest/meta-data.tif",
    "https://2130706433/a.tif",
    "https://0x7f.1/a.tif",
    "s3://someone-elses/a.tif",
    "//evil.example/a.tif",
    "./a.vrt",
    "./a.xml",
    "./a.tif.zip",
    "./a\nb.tif",
    "./a\x00.tif",
    ".\\..\\a.tif",
    "C:\\data\\a.tif",
    "\\\\server\\share\\a.tif",
    "C:/data/a.tif",
    " ./a.tif",
    "./a.tif ",
    " https://sentinel2l2a01.blob.core.windows.net/a.tif",
    "https://evil.example/a b.tif",
    "https://sentinel2l2a01.blob.core.windows.net/a b/../c.tif",
    "HTTPS://evil.example/a.tif",
    "S3://someone-elses/a b.tif",
    "file:a.tif",
    "file:///etc/pass wd.tif",
    "file:///catalog/a.tif#b.tif",
    "file:///catalog/a%00.tif",
    "file:///catalog/x%5C..%5Ca.tif",
    "file:///catalog/%2e%2e/etc/a.tif",
]


def a_trust(origin="/catalog/catalog.json", provider="planetary-computer", allow=()):
    return href_policy.HrefPolicy(
        provider=providers.get(provider), origin=origin, allow=tuple(allow)
    )


@pytest.mark.parametrize("href", HOSTILE)
def test_hostile_hrefs_are_refused(href):
    for origin, base in [
        ("/catalog/catalog.json", "/catalog/c/item.json"),
        (None, "https://planetarycomputer.microsoft.com/api/stac/v1/collections/c/items/i"),
    ]:
        with pytest.raises(href_policy.UntrustedHrefError):
            a_trust(origin).resolve_raster(href, base)


@pytest.mark.parametrize(
    ("href", "settled"),
    [
        ("./a.tif", "/catalog/c/a.tif"),
        ("a.TIFF", "/catalog/c/a.TIFF"),
        ("../d/./a.jp2", "/catalog/d/a.jp2"),
        ("/catalog/a.tif", "/catalog/a.tif"),
        ("file:///catalog/a%20b.tif", "/catalog/a b.tif"),
        ("file:///catalog/a b.tif", "/catalog/a b.tif"),
        ("file:/catalog/a%23b+c.tif", "/catalog/a#b+c.tif"),
        ("FILE://localhost/catalog/gr%C3%BCn.tif", "/catalog/grün.tif"),
        ("./B02 10m.tif", "/catalog/c/B02 10m.tif"),
        ("./B02 (1) #2 + grün & 100%.tif", "/catalog/c/B02 (1) #2 + grün & 100%.tif"),
        ("./2020-06-10T10:00:31/B02.tif", "/catalog/c/2020-06-10T10:00:31/B02.tif"),
        (f"./{'long' * 60}.tif", f"/catalog/c/{'long' * 60}.tif"),
        (BLOB, BLOB),
        (BLOB.replace("/B02", "/B02 10m ü"), BLOB.replace("/B02", "/B02%2010m%20%C3%BC")),
        (BLOB.replace("/B02", "/B02%2010m"), BLOB.replace("/B02", "/B02%2010m")),
        (BLOB.replace("/B02", "/(a)+[b]&c=100%"), BLOB.replace("/B02", "/(a)+[b]&c=100%")),
        (BLOB.replace("https", "HTTPS"), BLOB),
        (BLOB.replace(".net/", ".net:443/"), BLOB.replace(".net/", ".net:443/")),
    ],
)
def test_valid_hrefs_are_resolved(href, settled):
    assert a_trust().resolve_raster(href, "/catalog/c/item.json") == settled


def test_names_are_percent_encoded_below_a_remote_catalog():
    trusted = a_trust("https://x.example/my catalog/catalog.json", "demo")
    base = "https://x.example/my catalog/c/item.json"
    for href in ("../B02 grün.tif", "../B02%20gr%C3%BCn.tif", "/my catalog/B02 grün.tif"):
        resolved = trusted.resolve_raster(href, base)
        assert resolved == "https://x.example/my%20catalog/B02%20gr%C3%BCn.tif"


@pytest.mark.parametrize(
    ("on_disk", "hrefs"),
    [
        ("B02 10m.tif", ["B02 10m.tif", "B02%2010m.tif"]),
        ("B02%2010m.tif", ["B02%2010m.tif"]),
        ("B02+10m#1.tif", ["B02+10m#1.tif", "B02+10m%231.tif", "B02%2B10m%231.tif"]),
        ("gr\u00fcn.tif", ["gr\u00fcn.tif", "gru\u0308n.tif", "gr%C3%BCn.tif", "gru%CC%88n.tif"]),
        ("gru\u0308n.tif", ["gr\u00fcn.tif", "gru\u0308n.tif", "gr%C3%BCn.tif", "gru%CC%88n.tif"]),
        ("東京 (1).tif", ["東京 (1).tif", "%E6%9D%B1%E4%BA%AC%20%281%29.tif"]),
    ],
)
def test_a_local_name_is_found_in_each_of_its_spellings(tmp_path, on_disk, hrefs):
    (tmp_path / "my scenes").mkdir()
    (tmp_path / "my scenes" / on_disk).touch()
    trusted = a_trust(str(tmp_path / "catalog.json"))
    for href in hrefs:
        resolved = trusted.resolve_raster(f"./my scenes/{href}", str(tmp_path / "item.json"))
        assert resolved == str(tmp_path / "my scenes" / on_disk)


def test_the_written_name_comes_before_the_decoded_one(tmp_path):
    for name in ("a%20b.tif", "a b.tif"):
        (tmp_path / name).touch()
    trusted = a_trust(str(tmp_path / "catalog.json"))
    for name in ("a%20b.tif", "a b.tif"):
        assert trusted.resolve_raster(name, str(tmp_path / "i.json")) == str(tmp_path / name)


@pytest.mark.parametrize("href", ["%2e%2e/secret.tif", "%2Fetc/secret.tif", "a%00.tif", "%22.tif"])
def test_a_decoded_name_cannot_lead_out_of_the_catalog(tmp_path, href):
    (tmp_path / "secret.tif").touch()
    (tmp_path / "catalog").mkdir()
    trusted = a_trust(str(tmp_path / "catalog" / "catalog.json"))
    try:
        resolved = trusted.resolve_raster(href, str(tmp_path / "catalog" / "item.json"))
    except href_policy.UntrustedHrefError:
        return
    assert resolved.startswith(f"{tmp_path}/catalog/")
    assert not Path(resolved).exists()


@pytest.mark.parametrize(
    ("href", "advice"),
    [
        ("..\\px\\B02.tif", "write slashes, as in ./scene/B02.tif"),
        ("B02:10m.tif", "a relative path with a colon begins with `./`"),
        ("https://x.example/B02#1.tif", "a # in a name is written %23"),
        ("./B02.tif ", "begins or ends with a blank: remove it"),
    ],
)
def test_the_error_of_a_name_says_how_to_write_it(href, advice):
    with pytest.raises(href_policy.UntrustedHrefError, match=re.escape(advice)):
        a_trust(allow=["x.example"]).resolve_raster(href, "/catalog/c/item.json")
    corrected = {
        "..\\px\\B02.tif": "../px/B02.tif",
        "B02:10m.tif": "./B02:10m.tif",
        "https://x.example/B02#1.tif": "https://x.example/B02%231.tif",
        "./B02.tif ": "./B02.tif",
    }[href]
    assert a_trust(allow=["x.example"]).resolve_raster(corrected, "/catalog/c/item.json")


def test_links_cannot_lead_out_of_the_catalog(tmp_path):
    inner, outer = tmp_path / "catalog", tmp_path / "outside"
    inner.mkdir()
    outer.mkdir()
    (outer / "a.tif").write_bytes(b"secret")
    (inner / "link.tif").symlink_to(outer / "a.tif")
    (inner / "folder").symlink_to(outer)
    trusted = a_trust(str(inner / "catalog.json"))
    for href in ("./link.tif", "./folder/a.tif"):
        with pytest.raises(href_policy.UntrustedHrefError, match="outside of the catalog"):
            trusted.resolve_raster(href, str(inner / "item.json"))
    allowed = a_trust(str(inner / "catalog.json"), allow=[str(outer)])
    assert allowed.resolve_raster("./link.tif", str(inner / "item.json")) == str(outer / "a.tif")


def test_a_folder_with_the_same_prefix_is_outside():
    with pytest.raises(href_policy.UntrustedHrefError):
        a_trust().resolve_raster("/catalog-2/a.tif", "/catalog/item.json")


def test_the_allow_list_opens_hosts_folders_and_buckets(tmp_path):
    allow = [str(tmp_path), "cdn.example", "127.0.0.1:9000", "s3://mine", "https://other.example/x"]
    trusted = a_trust(allow=allow)
    base = "/catalog/item.json"
    for href in (
        f"{tmp_path}/a.tif",
        "https://cdn.example/a.tif",
        "http://127.0.0.1:9000/a.tif",
        "https://other.example/y/a.tif",
        "s3://mine/a.tif",
    ):
        assert trusted.resolve_raster(href, base) == href
    for href in (
        "http://cdn.example/a.tif",
        "https://www.cdn.example/a.tif",
        "http://127.0.0.1:9001/a.tif",
        "s3://mine-too/a.tif",
    ):
        with pytest.raises(href_policy.UntrustedHrefError):
            trusted.resolve_raster(href, base)


def test_a_remote_catalog_is_trusted_on_its_own_host_only():
    trusted = a_trust("http://127.0.0.1:8080/stac/catalog.json", "demo")
    base = "http://127.0.0.1:8080/stac/c/item.json"
    assert trusted.resolve_raster("../a.tif", base) == "http://127.0.0.1:8080/stac/a.tif"
    assert trusted.resolve_raster("/b/a.tif", base) == "http://127.0.0.1:8080/b/a.tif"
    for href in ("http://127.0.0.1:8081/a.tif", "https://127.0.0.1:8080/a.tif", "file:///a.tif"):
        with pytest.raises(href_policy.UntrustedHrefError):
            trusted.resolve_raster(href, base)


def test_a_remote_catalog_may_name_files_in_an_allowed_folder(tmp_path):
    folder = tmp_path / "mounted data"
    folder.mkdir()
    (folder / "link.tif").symlink_to("/etc/hosts")
    base = "https://x.example/c/item.json"
    allowed = a_trust("https://x.example/catalog.json", "demo", allow=[str(folder)])
    assert allowed.resolve_raster(f"{folder}/a b.tif", base) == f"{folder}/a b.tif"
    for href in (f"{tmp_path}/a.tif", f"{folder}/../a.tif", f"{folder}-2/a.tif", "/etc/a.tif"):
        with contextlib.suppress(href_policy.UntrustedHrefError):
            assert allowed.resolve_raster(href, base).startswith("https://x.example/")
    assert allowed.resolve_raster(f"{folder}/link.tif", base).startswith("https://x.example/")
    other = a_trust("https://x.example/catalog.json", "demo")
    assert other.resolve_raster(f"{folder}/a.tif", base).startswith("https://x.example/")


def test_public_buckets_are_read_over_https():
    settled = a_trust(provider="earth-search").resolve_raster(
        "s3://copernicus-dem-30m/T/T.tif", "https://earth-search.aws.element84.com/v1/x"
    )
    assert settled == "https://copernicus-dem-30m.s3.eu-central-1.amazonaws.com/T/T.tif"
    for provider, bucket in (
        ("earth-search", "sentinel-cogs"),
        ("earth-search", "e84-earth-search-sentinel-data"),
        ("earth-search-v0", "sentinel-cogs"),
        ("stactools", "sentinel-s1-rtc-indigo"),
    ):
        over_s3, over_https = (
            a_trust(provider=provider).resolve_raster(f"{start}/T/B02.tif", "/catalog/i.json")
            for start in (f"s3://{bucket}", f"https://{bucket}.s3.us-west-2.amazonaws.com")
        )
        assert over_s3 == over_https
    key = a_trust(provider="earth-search").resolve_raster(
        "S3://copernicus-dem-30m/T 1/50%+#2.tif", "https://earth-search.aws.element84.com/v1/x"
    )
    assert key.endswith(".amazonaws.com/T%201/50%25%2B%232.tif")
    # ^ the key of an object is no URL
    eodata = a_trust(provider="cdse").resolve_raster("s3://eodata/S/B02_10m.jp2", "https://x/y")
    assert eodata == "s3://eodata/S/B02_10m.jp2"


def test_messages_hold_no_secrets():
    signed = "https://evil.example/a.tif?sig=SECRET&se=1"
    for href in (signed, "https://me:SECRET@evil.example/a.tif", "weird:x?SECRET"):
        with pytest.raises(href_policy.UntrustedHrefError) as raised:
            a_trust().resolve_raster(href, "/catalog/item.json")
        assert "SECRET" not in str(raised.value)
    assert href_policy.redact(signed) == "https://evil.example/a.tif"
    assert href_policy.redact("/data/a.tif?sig=x") == "/data/a.tif"
    assert href_policy.redact("/data/a#1.tif") == "/data/a#1.tif"
    with pytest.raises(href_policy.UntrustedHrefError) as raised:
        a_trust().resolve_raster("https://evil.example/a b.tif?a=1 SECRET", "/catalog/item.json")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "message",
    [
        "'/vsicurl/https://a.example/x.tif?sig=SECRET&se=1' not recognized as a file",
        "HTTP response code: 403 on https://a.example/x.tif?st=1&sig=SECRET",
        "CURL error: https://me:SECRET@a.example/x.tif refused",
        "cannot open token=SECRET at x.tif",
    ],
)
def test_messages_of_libraries_are_redacted(message):
    redacted = href_policy.redact(message)
    assert "SECRET" not in redacted
    assert "x.tif" in redacted
    assert href_policy.redact("why? nobody knows") == "why? nobody knows"


class TokenResponse:
    """A response of the token service."""

    def __init__(self, status=200, minutes=45, skew=0, document=None):
        now = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=skew)
        self.status_code = status
        self.headers = {"Date": format_datetime(now, usegmt=True)}
        self.document = document or {
            "msft:expiry": (now + dt.timedelta(minutes=minutes)).isoformat(),
            "token": f"se=1&sig=SECRET{next(COUNT)}",
        }

    def json(self):
        return self.document


COUNT = itertools.count()


@pytest.fixture
def service(monkeypatch):
    """Answer token requests from a list, repeating the last one; record the requests."""
    monkeypatch.setattr(signing, "_tokens", {})
    responses, sent_requests = [TokenResponse()], []

    def get(_self, address, *, headers, timeout, allow_redirects):
        assert timeout == http_client.TIMEOUT
        assert not allow_redirects
        sent_requests.append((address, headers))
        response = responses.pop(0) if len(responses) > 1 else responses[0]
        if isinstance(response, Exception):
            raise response
        return response

    monkeypatch.setattr(requests.Session, "get", get)
    return types.SimpleNamespace(responses=responses, requests=sent_requests)


def test_hrefs_that_need_no_signature_are_unchanged(service):
    for provider in ("demo", "earth-search", "cdse"):
        assert signing.sign(BLOB, provider) == BLOB
    for href in ("/data/B02.tif", "https://x.example/a.tif", BLOB.replace("https", "http")):
        assert signing.sign(href, "planetary-computer") == href
    assert service.requests == []


def test_one_token_serves_a_container(service, monkeypatch):
    monkeypatch.delenv(signing.SUBSCRIPTION_KEY_VARIABLE, raising=False)
    service.responses[:] = [TokenResponse(), TokenResponse()]
    signed = signing.sign(BLOB, providers.get("planetary-computer"))
    assert re.fullmatch(re.escape(BLOB) + r"\?se=1&sig=SECRET\d+", signed)
    assert signing.sign(BLOB.replace("B02", "B03"), "planetary-computer") == signed.replace(
        "B02", "B03"
    )
    assert service.requests == [(f"{signing.TOKEN_URL}/sentinel2l2a01/sentinel2-l2", {})]
    assert signing.sign(signed, "planetary-computer") == signed
    signing.forget_token(signed)
    assert signing.sign(BLOB, "planetary-computer") != signed


def test_the_repr_of_a_signed_href_holds_no_token(service):
    reading = signing.sign_with_options(BLOB, "planetary-computer")
    assert "SECRET" in reading.href
    assert "SECRET" not in f"{reading!r} {reading} {reading.gdal_options}"
    assert BLOB in repr(reading)
    assert reading.gdal_options == {}


@pytest.mark.parametrize(
    ("provider", "href", "options"),
    [
        (
            "cdse",
            "s3://eodata/a/B02.jp2",
            {
                "AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu",
                "AWS_VIRTUAL_HOSTING": "FALSE",
            },
        ),
        (
            "earth-search",
            "s3://sentinel-s2-l1c/tiles/B02.jp2",
            {"AWS_REGION": "eu-central-1", "AWS_REQUEST_PAYER": "requester"},
        ),
        ("earth-search", "s3://someone-elses/a.tif", {}),
        ("earth-search", "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", {}),
        ("cdse", "/data/B02.jp2", {}),
    ],
)
def test_gdal_options_of_an_href(service, provider, href, options):
    assert signing.sign_with_options(href, provider) == signing.SignedHref(href, options)
    assert service.requests == []


def test_a_custom_table_states_access_to_buckets_and_hosts(tmp_path):
    table = tmp_path / "own.yaml"
    table.write_text(
        "hosts: [data.example.org]\nsigning: bearer\nbuckets: {open-data: {access: public}}\n"
        "mirrors: {'s3://twin/': 'https://data.example.org/twin/'}\n"
        "collections: {a: {modality: DEM, names: {DEM: data}}}\n"
    )
    assert signing.sign_with_options("s3://open-data/a.tif", str(table)).gdal_options == {
        "AWS_NO_SIGN_REQUEST": "YES"
    }
    bearer = {"GDAL_HTTP_AUTH": "BEARER"}
    assert (
        signing.sign_with_options("https://data.example.org/a.tif", str(table)).gdal_options
        == bearer
    )
    assert (
        signing.sign_with_options("https://else.example.org/a.tif", str(table)).gdal_options == {}
    )
    # ^ a host of the job's allow list never sees the token
    trusted = href_policy.HrefPolicy(provider=providers.get(str(table)), origin=None, allow=())
    for href in ("s3://open-data/a.tif", "https://data.example.org/a.tif"):
        assert trusted.resolve_raster(href, "https://x.example.org/i.json") == href
    mirrored = trusted.resolve_raster("s3://twin/a.tif", "https://x.example.org/i.json")
    assert mirrored == "https://data.example.org/twin/a.tif"
    with pytest.raises(href_policy.UntrustedHrefError, match="bucket"):
        trusted.resolve("s3://eodata/a.tif", "https://x.example.org/i.json")


class _Bucket(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path.partition("?")[0], dict(self.headers)))
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_gdal_uses_the_options_of_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Bucket) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        table = tmp_path / "own.yaml"
        endpoint = f"127.0.0.1:{server.server_port}"
        table.write_text(
            f"buckets: {{own: {{endpoint: '{endpoint}', access: requester-pays}}}}\n"
            "collections: {a: {modality: DEM, names: {DEM: data}}}\n"
        )
        reading = signing.sign_with_options("s3://own/folder/a.tif", str(table))
        with rasterio.Env(AWS_HTTPS="NO", **reading.gdal_options), pytest.raises(RasterioIOError):
            rasterio.open(reading.href, driver="GTiff")
        server.shutdown()
    headers = dict(server.seen)["/own/folder/a.tif"]
    # ^ it may look at the folder first
    assert headers["x-amz-request-payer"] == "requester"
    assert "Credential=KEY/" in headers["Authorization"]
    assert "CANARY" not in repr(reading)


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("/data/B02.jp2", "B02.jp2"),
        ("https://x.example/a/B02.tif?sig=1", "B02.tif"),
        ("https://x.example/odata/v1/Products(1)/Nodes(a.SAFE)/Nodes(B02.jp2)/$value", "B02.jp2"),
        ("https://x.example/odata/v1/Products(1)/$value", "Products(1)"),
    ],
)
def test_the_name_of_a_file_in_an_href(href, name):
    assert href_policy.file_name(href) == name


def test_many_threads_fetch_once(service):
    with ThreadPoolExecutor(8) as pool:
        signed = set(pool.map(lambda _: signing.sign(BLOB, "planetary-computer"), range(64)))
    assert len(signed) == len(service.requests) == 1


@pytest.mark.parametrize("skew", [-20, 0, 20])
def test_a_wrong_clock_does_not_change_the_lifetime_of_tokens(service, skew):
    service.responses[:] = [TokenResponse(skew=skew), TokenResponse(skew=skew)]
    assert signing.sign(BLOB, "planetary-computer") == signing.sign(BLOB, "planetary-computer")
    assert len(service.requests) == 1


def test_a_token_about_to_end_is_replaced(service):
    service.responses[:] = [TokenResponse(minutes=0.9), TokenResponse(minutes=0.9), TokenResponse()]
    signed = {signing.sign(BLOB, "planetary-computer") for _ in range(3)}
    assert len(signed) == len(service.requests) == 3


def test_a_subscription_is_used(service, monkeypatch):
    monkeypatch.setenv(signing.SUBSCRIPTION_KEY_VARIABLE, "mine")
    signing.sign(BLOB, "planetary-computer")
    assert service.requests[0][1] == {"Ocp-Apim-Subscription-Key": "mine"}


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (requests.ConnectionError("https://x/token?sig=SECRET"), TransientError, "ConnectionError"),
        (TokenResponse(status=503), TransientError, "answers 503"),
        (TokenResponse(status=404), InvalidInputError, r"answers 404.*public container"),
        (TokenResponse(document={"token": "sig=SECRET"}), TransientError, "KeyError"),
        (TokenResponse(document=["SECRET"]), TransientError, "TypeError"),
    ],
)
def test_the_error_of_a_failed_token_holds_no_secrets(service, response, error, message):
    service.responses[:] = [response]
    signed_before = f"{BLOB}?old=SECRET"
    with pytest.raises(error, match=message) as raised:
        signing.sign(signed_before, "planetary-computer")
    assert "sentinel2l2a01/sentinel2-l2" in str(raised.value)
    assert "SECRET" not in "".join(traceback.format_exception(raised.value))
