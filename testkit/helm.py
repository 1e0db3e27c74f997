"""Charts rendered by helm: its binary if there is one, else its Python bindings in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "deploy" / "helm" / "taskstream"
RELEASE = "ts"
NAMESPACE = "prod"
# The bindings load a Go runtime, which would change how signals of this process are handled.
_BINDINGS = """
import json, sys
import helm_python
chart, name, namespace, values = sys.argv[1:]
try:
    if name:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(json.loads(values))
            print("\\n---\\n".join(loaded.render(json.loads(values), name=name, namespace=namespace).values()))
    else:
        found = helm_python.lint(chart, json.loads(values), strict=True)
        print(*found["errors"], *(f"{each['path']}: {each['error']}" for each in found["messages"]), sep="\\n")
except helm_python.HelmError as error:
    sys.exit(f"Error: {error}")
"""


class HelmRefused(Exception):
    """Helm refused the chart or its values; the message is helm's."""


def render(**values: Any) -> list[dict[str, Any]]:
    """Return the objects that `helm install` would create, without the notes. Raises HelmRefused."""
    text = _helm(RELEASE, NAMESPACE, values)
    documents = re.split(r"(?m)^---$", text)
    return [loaded for each in documents if (loaded := _object(each))]


def lint(**values: Any) -> str:
    """Return what `helm lint --strict` says."""
    return _helm("", NAMESPACE, values)


def _object(document: str) -> dict[str, Any] | None:
    if not re.search(r"(?m)^kind: ", document):
        return None  # the notes
    loaded: dict[str, Any] = yaml.safe_load(document)
    return loaded


def _helm(name: str, namespace: str, values: dict[str, Any]) -> str:
    if importlib.util.find_spec("helm_python"):
        command = [sys.executable, "-c", _BINDINGS, str(CHART), name, namespace, json.dumps(values)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    elif helm := shutil.which("helm"):
        verb = ["template", name, str(CHART), "--namespace", namespace] if name else ["lint", "--strict", str(CHART)]
        command = [helm, *verb, "--values", "-"]
        ran = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    else:
        raise AssertionError("neither helm nor its Python bindings are installed: install helm 3 or newer")
    if ran.returncode:
        raise HelmRefused(ran.stderr or ran.stdout)
    return ran.stdout
