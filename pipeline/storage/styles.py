"""Styles of layers: legends and colour ramps in the formats of QGIS, SLD, STAC and GDAL."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pipeline.storage import color_ramps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catalogs.legend import Legend
    from pipeline.layer_table import Layer
    from pipeline.storage.band_statistics import BandStatistics

_QML_TEMPLATE = """\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology" hasScaleBasedVisibilityFlag="0">
  <pipe>
    <provider>
      <resampling enabled="false" zoomedInResamplingMethod="nearestNeighbour" \
zoomedOutResamplingMethod="nearestNeighbour" maxOversampling="2"/>
    </provider>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <rasterTransparency/>
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>
    <huesaturation colorizeOn="0" saturation="0" grayscaleMode="0"/>
    <rasterresampler maxOversampling="2"/>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""

_SLD_TEMPLATE = """\
<?xml version="1.0" encoding="UTF-8"?>
<StyledLayerDescriptor version="1.0.0" xmlns="http://www.opengis.net/sld" \
xmlns:ogc="http://www.opengis.net/ogc">
  <NamedLayer>
    <Name>{name}</Name>
    <UserStyle>
      <Title>{title}</Title>
      <FeatureTypeStyle>
        <Rule>
          <RasterSymbolizer>
            <Opacity>1</Opacity>
            <ColorMap type="{kind}">
{entries}
            </ColorMap>
          </RasterSymbolizer>
        </Rule>
      </FeatureTypeStyle>
    </UserStyle>
  </NamedLayer>
</StyledLayerDescriptor>
"""


_RAMP_QML_TEMPLATE = """\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology" hasScaleBasedVisibilityFlag="0">
  <pipe>
    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" \
nodataColor="" classificationMin="{low}" classificationMax="{high}">
      <rasterTransparency/>
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" \
minimumValue="{low}" maximumValue="{high}" labelPrecision="4">
{items}
        </colorrampshader>
      </rastershader>
    </rasterrenderer>
    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>
    <huesaturation colorizeOn="0" saturation="0" grayscaleMode="0"/>
    <rasterresampler maxOversampling="2"/>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


def render_styles(layer: Layer, band: BandStatistics) -> Iterator[tuple[str, str, str]]:
    """Yield kind, suffix and text of the styles of a layer that has a legend or a colour ramp."""
    if layer.kind == "classes" and layer.legend is not None:
        yield "style", "qml", qml(layer.legend)
        yield "sld", "sld", sld(layer, layer.legend)
    elif layer.kind == "values" and layer.is_single_band and band.mean is not None:
        stops = color_ramps.ramp_stops(layer, band)
        yield "style", "qml", ramp_qml(stops)
        yield "sld", "sld", ramp_sld(layer, stops)


def qml(legend: Legend) -> str:
    """Return a QGIS style: a palette with labels, without nodata.

    QGIS applies it automatically to a raster of the same stem in the same folder.
    """
    entries = "\n".join(
        f'        <paletteEntry value="{entry.code}" color="#{entry.color_hint.lower()}" '
        f'alpha="255" label="{escape(entry.title)}"/>'
        for entry in legend.mapped_classes
    )
    return _QML_TEMPLATE.format(entries=entries)


def sld(layer: Layer, legend: Legend) -> str:
    """Return an OGC SLD 1.0 style of a layer's legend, for GeoServer and QGIS."""
    entries = "\n".join(
        f'              <ColorMapEntry color="#{entry.color_hint}" quantity="{entry.code}" '
        f'label="{escape(entry.title)}" opacity="{0 if entry.code == legend.nodata else 1}"/>'
        for entry in legend.classes
    )
    return _SLD_TEMPLATE.format(
        name=escape(layer.name), title=escape(layer.title), kind="values", entries=entries
    )


def ramp_qml(stops: Sequence[tuple[float, tuple[int, int, int]]]) -> str:
    """Return a QGIS style of a colour ramp, for a layer of one band.

    Args:
        stops: (value, (red, green, blue)), from low to high.
    """
    items = "\n".join(
        f'          <item value="{value:.6g}" label="{value:.4g}" alpha="255" '
        f'color="#{red:02x}{green:02x}{blue:02x}"/>'
        for value, (red, green, blue) in stops
    )
    return _RAMP_QML_TEMPLATE.format(
        items=items, low=f"{stops[0][0]:.6g}", high=f"{stops[-1][0]:.6g}"
    )


def ramp_sld(layer: Layer, stops: Sequence[tuple[float, tuple[int, int, int]]]) -> str:
    """Return an OGC SLD 1.0 style of a colour ramp, for a layer of one band."""
    entries = "\n".join(
        f'              <ColorMapEntry color="#{red:02x}{green:02x}{blue:02x}" '
        f'quantity="{value:.6g}" label="{value:.4g}" opacity="1"/>'
        for value, (red, green, blue) in stops
    )
    return _SLD_TEMPLATE.format(
        name=escape(layer.name), title=escape(layer.title), kind="ramp", entries=entries
    )


def colormap(legend: Legend) -> dict[int, tuple[int, int, int, int]]:
    """Return code → red, green, blue and alpha; nodata is transparent."""
    return {
        entry.code: (*entry.color, 0 if entry.code == legend.nodata else 255)
        for entry in legend.classes
    }


def class_percentages(legend: Legend, amounts: Mapping[int, float]) -> dict[int, float]:
    """Return code → percentage of what is mapped, for every class except nodata.

    All are 0 if nothing is mapped.

    Args:
        legend: the legend.
        amounts: code → number of pixels, or area.
    """
    codes = [entry.code for entry in legend.mapped_classes]
    mapped = sum(amounts.get(code, 0) for code in codes)
    return {code: 100.0 * amounts.get(code, 0) / mapped if mapped else 0.0 for code in codes}


def attribute_table(legend: Legend, counts: Mapping[int, int], areas: Mapping[int, float]) -> str:
    """Return GDAL's auxiliary XML with category names and the raster attribute table.

    Area_perc is the percentage of the mapped area: the classes add up to 100, and nodata has 0.

    Args:
        legend: the legend.
        counts: code → pixels.
        areas: code → area on the ground, km².
    """
    columns = "\n".join(
        f'      <FieldDefn index="{index}"><Name>{name}</Name>'
        f"<Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>"
        for index, (name, kind, usage) in enumerate(_ATTRIBUTE_COLUMNS)
    )
    rows = "\n".join(
        f'      <Row index="{index}">{"".join(f"<F>{escape(cell)}</F>" for cell in row)}</Row>'
        for index, row in enumerate(_attribute_rows(legend, counts, areas))
    )
    return _PAM_TEMPLATE.format(categories=_category_names(legend), columns=columns, rows=rows)


_PAM_TEMPLATE = """\
<PAMDataset>
  <PAMRasterBand band="1">
    <CategoryNames>
{categories}
    </CategoryNames>
    <GDALRasterAttributeTable tableType="thematic">
{columns}
{rows}
    </GDALRasterAttributeTable>
  </PAMRasterBand>
</PAMDataset>
"""

_ATTRIBUTE_COLUMNS = (
    ("Value", 0, 5),
    ("Count", 1, 1),
    ("Class_name", 2, 2),
    ("Red", 0, 6),
    ("Green", 0, 7),
    ("Blue", 0, 8),
    ("Area_km2", 1, 0),
    ("Area_perc", 1, 0),
)
"""Name, GDAL type (0 integer, 1 real, 2 text), GDAL usage (5 value, 1 count, 2 name, 6-8 RGB).

Counts are reals: GDAL's integer columns have 32 bits, which large regions exceed.
"""


def _category_names(legend: Legend) -> str:
    """Return a ``Category`` element per value from 0 on, empty for values that are no code."""
    titles = {entry.code: entry.title for entry in legend.classes}
    return "\n".join(
        f"      <Category>{escape(titles.get(code, ''))}</Category>"
        for code in range(max(entry.code for entry in legend.mapped_classes) + 1)
    )


def _attribute_rows(
    legend: Legend, counts: Mapping[int, int], areas: Mapping[int, float]
) -> list[tuple[str, ...]]:
    """Return the rows of the attribute table, one per class of the legend."""
    shares = class_percentages(legend, areas)
    rows = []
    for entry in legend.classes:
        count = counts.get(entry.code, 0)
        area = f"{areas.get(entry.code, 0.0):.6f}"
        share = f"{shares.get(entry.code, 0.0):.4f}"
        color = tuple(str(channel) for channel in entry.color)
        rows.append((str(entry.code), str(count), entry.title, *color, area, share))
    return rows
