"""docs/scaling.md describes the demand of a pool, and KEDA's configuration reads it."""

from __future__ import annotations

import re
from pathlib import Path

from taskstream.api.schemas.pools import PoolDemand

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
SECTION = PAGE.split("## Servers on demand")[1].split("\n## ")[0]


def test_the_page_has_each_field_of_a_demand() -> None:
    assert re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE) == list(PoolDemand.__struct_encode_fields__)


def test_the_configuration_for_keda_reads_a_field_of_the_demand() -> None:
    [value] = re.findall(r"valueLocation: (\w+)", SECTION)
    [path] = re.findall(r"url: \S+?(/api/\S+)", SECTION)

    assert value in PoolDemand.__struct_encode_fields__
    assert re.fullmatch(r"/api/pools/\w+/demand", path)
