"""What docs/images.md says brings logins and users' managers back is what a test runs with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_the_image_of_the_script_with_units_of_users_has_what_the_page_says() -> None:
    page = (_ROOT / "docs/images.md").read_text()
    part = page.partition("### What `debian` leaves out")[2]
    found = re.search(r"```toml\n(.*?)```", part, re.DOTALL)
    assert found
    said = tomllib.loads(found[1])
    recipe = tomllib.loads((_ROOT / "tests/scripts/services.toml").read_text())
    assert {key: set(said[key]) - set(recipe[key]) for key in said} == {
        "packages": set(), "run": set(),
    }  # fmt: skip
