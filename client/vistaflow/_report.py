"""A kit as one HTML file that needs no network and no script, to read, print and archive."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from vistaflow import _html
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import VistaError

MAX_PICTURES: Final = 40
"""Pictures of a report."""

MAX_PICTURE_BYTES: Final = 4 * 1024 * 1024
"""Largest picture that is embedded."""

NOMINAL_COVERAGE: Final = 0.95

Call = Callable[[str, str, Any], Awaitable[Any]]
"""Calls an RPC of a service: its name such as `optimize`, the method, the request."""

Read = Callable[[str, int], Awaitable[bytes]]
"""Reads a file of the artifact store: its URI, and the most bytes; more raise `ValueError`."""

_LONG: Final = 30
"""Characters from which a word may break."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_OPTIMIZE: Final = "JOB_TYPE_OPTIMIZE"
_TEST: Final = "JOB_TYPE_ML_TEST"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a report is made of."""

    version: str
    """Of the suite."""

    kit: Mapping[str, Any]
    """The kit with its jobs, as JSON with the names of the protos."""

    study: Mapping[str, Any]
    """Of the latest finished optimisation; empty: there is none."""

    model: Mapping[str, Any]
    """What the study was made with; empty: there is none."""

    pictures: Sequence[tuple[str, str, bytes]]
    """Job, name, and content as PNG."""


async def report(kit_id: int, call: Call, read: Read) -> str:
    """The report of a kit, whatever its status.

    Args:
        kit_id: The kit.
        call: Calls RPCs.
        read: Reads pictures; those that cannot be read are left out.

    Returns:
        An HTML document.

    Raises:
        NotFoundError: There is no such kit.
        VistaError: As the services raise.
    """
    info = await call("registry", "GetServerInfo", registry_pb2.GetServerInfoRequest())
    kit = await _kit(kit_id, call)
    jobs = kit.get("jobs", [])
    study: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    ended = [job for job in jobs if job["job_type"] == _OPTIMIZE and job.get("result")]
    if ended:
        request = optimize_pb2.GetStudyRequest(study_id=ended[-1]["job_id"])
        study = _json((await call("optimize", "GetStudy", request)).study)
    if study.get("model_id"):
        asked = ml_pb2.GetModelRequest(model_id=study["model_id"])
        model = _json((await call("ml", "GetModel", asked)).model)
    return rendered(
        Contents(
            version=info.version,
            kit=kit,
            study=study,
            model=model,
            pictures=await _pictures(jobs, read),
        )
    )


async def _kit(kit_id: int, call: Call) -> dict[str, Any]:
    """The kit with its jobs without their tasks."""
    kit: dict[str, Any] = {}
    jobs: dict[str, Any] = {}
    request = registry_pb2.GetKitRequest(kit_id=kit_id)
    while True:
        page = await call("registry", "GetKit", request)
        part = _json(page.kit)
        kit = kit or part
        for job in part.get("jobs", []):
            jobs.setdefault(job["job_id"], {**job, "tasks": []})
        if not page.next_page_token:
            return {**kit, "jobs": list(jobs.values())}
        request.page_token = page.next_page_token


async def _pictures(jobs: Sequence[Mapping[str, Any]], read: Read) -> list[tuple[str, str, bytes]]:
    pictures: list[tuple[str, str, bytes]] = []
    for job in jobs:
        for plot in (job.get("result") or {}).get("plots") or ():
            uri = str(plot.get("uri", ""))
            if len(pictures) == MAX_PICTURES or not uri.endswith(".png"):
                continue
            try:
                content = await read(uri, MAX_PICTURE_BYTES)
            except (VistaError, ValueError):
                continue
            if content.startswith(_PNG):
                pictures.append((job["name"], str(plot.get("name", "")), content))
    return pictures


def _json(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def rendered(contents: Contents) -> str:
    """The HTML document. All text is escaped; there is no script and no address to load from."""
    kit = contents.kit
    title = f"Kit {kit['kit_id']}: {kit['name']}"
    sections = (
        ("Warnings", _warnings(contents)),
        ("Optimum", _optimum(contents)),
        ("Model, tested on rows held out", _model_test(kit)),
        ("Deck and space", _deck(contents)),
        ("Design", _design(kit)),
        ("Timeline", _timeline(kit)),
        ("Pictures", _images(contents.pictures)),
        ("How to reproduce it", _reproduction(contents)),
    )
    body = "".join(f"<section><h2>{name}</h2>{part}</section>" for name, part in sections if part)
    status = _word(kit["status"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever a name contains, a browser loads nothing for it.
        '<meta http-equiv="content-security-policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{_text(title)}</h1><p>{_text(_headline(kit, status))}</p></header>"
        f"<main>{body}</main></body></html>\n"
    )


def _headline(kit: Mapping[str, Any], status: str) -> str:
    parts = [
        status,
        f"project {kit['project']}",
        f"started {_moment(kit['created_at'])} by {kit.get('actor') or 'unknown'}",
        f"last change {_moment(kit['updated_at'])}",
        *(f"{key}={value}" for key, value in sorted((kit.get("labels") or {}).items())),
    ]
    if status not in ("finished", "failed", "canceled"):
        parts.insert(1, "not finished yet: this report shows what there is")
    return " · ".join(parts)


def _warnings(contents: Contents) -> str:
    study, kit = contents.study, contents.kit
    warnings = [
        f"Job {job['name']} failed: {job.get('reason') or 'no reason is recorded'}"
        for job in kit["jobs"]
        if job["status"] == "STATUS_FAILED"
    ]
    warnings += _at_bounds(study)
    for constraint in study.get("constraints", ()):
        if not constraint.get("met"):
            warnings.append(f"The best point misses {constraint['text']}.")
    for name, metrics in _metrics(kit).items():
        if doubts := metrics.get("doubts"):
            figures = f"R² is {_number(metrics.get('r2'))} on rows held out"
            warnings.append(f"The model of {name} is in doubt: {', '.join(doubts)}; {figures}.")
    for job in kit["jobs"]:
        result = job.get("result") or {}
        if count := int(result.get("failed_count") or 0):
            warnings.append(f"{count} points of job {job['name']} failed.")
        warnings += [str(note) for note in (result.get("warnings") or [])]
    warnings += [str(note) for note in study.get("notes", ())]
    return _items(dict.fromkeys(warnings))


def _at_bounds(study: Mapping[str, Any]) -> Iterable[str]:
    for bound in study.get("at_bounds", ()):
        low, high = bound.get("low", 0.0), bound.get("high", 0.0)
        yield (
            f"{bound['name']} = {_number(bound.get('value', 0.0))} is at an end of its range, "
            f"{_number(low)} to {_number(high)}: a better point may be beyond it."
        )


def _optimum(contents: Contents) -> str:
    study = contents.study
    if not study:
        return "<p>There is no finished optimisation.</p>"
    best = study.get("best") or {}
    units = {one["name"]: one.get("unit", "") for one in contents.model.get("parameters", ())}
    values = best.get("parameters") or {}
    names = [name for name in units if name in values] or sorted(values)
    parts = [
        f"<p>Goals:</p><pre>{_text(study.get('goals', ''))}</pre>",
        _table(
            "Best point", ("Parameter", "Value", "Unit"),
            [(name, values[name], units.get(name, "")) for name in names],
        ),
        _table(
            "Predicted and simulated",
            ("Response", "Predicted", "± 1 sd", "Simulated", "Unit"),
            [
                (
                    one["response"]["name"],
                    (one.get("predicted") or {}).get("mean", 0.0),
                    (one.get("predicted") or {}).get("standard_deviation", 0.0),
                    one.get("simulated", 0.0),
                    one["response"].get("unit", ""),
                )
                for one in study.get("comparisons", ())
            ],
        ),
        _table(
            "Constraints", ("Constraint", "Value", "Margin", "Unit", ""),
            [
                (one["text"], one.get("value", 0.0), one.get("margin", 0.0), one.get("unit", ""),
                 "met, active" if one.get("active") else "met" if one.get("met") else "missed")
                for one in study.get("constraints", ())
            ],
        ),
    ]  # fmt: skip
    before = (study.get("design_best") or {}).get("objective")
    compared = ""
    if before is not None:
        compared = f" Best of the design: {_number(before)}, now {_number(best.get('objective'))}."
    parts.append(
        f"<p>{study.get('evaluation_count', 0)} points, {study.get('simulated_count', 0)} runs, "
        f"{study.get('cached_count', 0)} from the store, {study.get('failed_count', 0)} failed; "
        f"ended by {_text(study.get('stop_reason', '') or 'an unknown reason')}.{compared}</p>"
    )
    return "".join(parts)


def _metrics(kit: Mapping[str, Any]) -> Mapping[str, Any]:
    tests = [job["result"] for job in kit["jobs"] if job["job_type"] == _TEST and job.get("result")]
    return tests[-1].get("metrics") or {} if tests else {}


def _model_test(kit: Mapping[str, Any]) -> str:
    metrics = _metrics(kit)
    if not metrics:
        return "<p>No model was tested.</p>"
    result = next(j["result"] for j in reversed(kit["jobs"]) if j["job_type"] == _TEST)
    families = result.get("families") or {}
    rows = [
        (
            name, str(families.get(name, "")).replace("_", " "), one.get("r2"), one.get("rmse"),
            one.get("mae"), one.get("coverage95"), one.get("rows"),
            _verdict(one.get("doubts")),
        )
        for name, one in sorted(metrics.items())
    ]  # fmt: skip
    return (
        _table("", ("Response", "Family", "R²", "RMSE", "MAE", "Coverage", "Rows", ""), rows)
        + "<p>Coverage is the part of the rows inside the model's interval of "
        f"{NOMINAL_COVERAGE:.0%}.</p>"
    )


def _verdict(doubts: Sequence[str] | None) -> str:
    """Whether a model may be trusted; nothing where that was not judged."""
    if doubts is None:
        return ""
    return f"⚠ {', '.join(doubts)}" if doubts else "✔"


def _deck(contents: Contents) -> str:
    jobs = contents.kit["jobs"]
    decks = [deck for job in jobs for deck in (job.get("result") or {}).get("decks") or ()]
    parts = [
        _table(
            "Deck", ("Name", "Version", "Simulator", "Responses", "SHA-256"),
            [
                (one.get("name"), one.get("version"), one.get("simulator"),
                 ", ".join(one.get("responses") or ()), one.get("sha256"))
                for one in decks
            ],
        )
    ]  # fmt: skip
    spaces = [(job.get("result") or {}).get("space") for job in jobs]
    space = next((one for one in reversed(spaces) if isinstance(one, dict)), {})
    parts.append(
        _table(
            "Parameters", ("Name", "Range", "Unit", "Scale", "Default", "What it is"),
            [
                (
                    one.get("name"), _range(one), one.get("unit"), one.get("scale"),
                    one.get("default"), one.get("description"),
                )
                for one in space.get("parameters") or ()
            ],
        )
    )  # fmt: skip
    if space.get("constraints"):
        parts.append("<p>Constraints of the space:</p>" + _items(map(str, space["constraints"])))
    return "".join(parts)


def _range(parameter: Mapping[str, Any]) -> str:
    if bounds := parameter.get("range"):
        return " to ".join(_number(one) for one in bounds)
    return ", ".join(
        _number(one) for one in parameter.get("choices") or parameter.get("values") or ()
    )


def _design(kit: Mapping[str, Any]) -> str:
    spec = (kit.get("spec") or {}).get("design") or {}
    rows = [(key.replace("_", " "), _plain(key, value)) for key, value in sorted(spec.items())]
    for job in kit["jobs"]:
        result = job.get("result") or {}
        if job["job_type"] != "JOB_TYPE_DOE" or not result:
            continue
        for key in ("evaluated_count", "cached_count", "failed_count"):
            rows.append((key.removesuffix("_count") + " points", result.get(key)))
        quality = result.get("quality") or {}
        for key in ("minimum_distance", "max_correlation", "centred_discrepancy", "phi_p"):
            if key in quality:
                rows.append((key.replace("_", " "), quality[key]))
    return _table("", ("What", "Value"), rows)


def _timeline(kit: Mapping[str, Any]) -> str:
    rows = [
        (
            job["name"], _word(job["status"]), _moment(job.get("started_at", "")),
            _moment(job.get("finished_at", "")), job.get("attempt", 0), job.get("worker", ""),
            job.get("reason", ""),
        )
        for job in kit["jobs"]
    ]  # fmt: skip
    columns = ("Job", "Status", "Started", "Ended", "Attempt", "Worker", "Reason")
    return _table("", columns, rows)


def _images(pictures: Sequence[tuple[str, str, bytes]]) -> str:
    return "".join(
        f'<figure><img alt="{_text(f"{job}: {name}")}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{_text(f'{job}: {name}')}</figcaption></figure>"
        for job, name, content in pictures
    )


def _reproduction(contents: Contents) -> str:
    kit = contents.kit
    text = kit_yaml(kit.get("spec") or {})
    if not text:
        return (
            f"<p>vistaflow {_text(contents.version)}. This kit was not made from the kit.yaml of a "
            "design.</p>"
        )
    return (
        f"<p>vistaflow {_text(contents.version)}. Save this as <code>kit.yaml</code>"
        " beside the deck of the SHA-256 above, if it is not one of the shipped ones:</p>"
        f"<pre>{_text(text)}</pre>"
        "<pre>vistaflow up --detach\nvistaflow run kit.yaml</pre>"
    )


def kit_yaml(spec: Mapping[str, Any]) -> str:
    """The kit.yaml of a design kit by its spec; empty if it is none."""
    import yaml  # ty: ignore[unresolved-import]

    deck = spec.get("deck")
    if not isinstance(deck, Mapping) or not deck.get("name"):
        return ""

    class Dumper(yaml.SafeDumper):
        pass

    def block(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        )

    Dumper.add_representer(str, block)
    content: dict[str, Any] = {"name": spec.get("name", ""), "deck": deck["name"]}
    for key in ("project", "labels", "seed", "design", "evaluation", "ml", "goals", "optimize"):
        if spec.get(key):
            content[key] = _plain(key, spec[key])
    if spec.get("stop_after") not in (None, _OPTIMIZE):
        content["stop_after"] = spec["stop_after"].removeprefix("JOB_TYPE_")
    text: str = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


def _plain(key: str, value: Any) -> Any:
    """A value of a spec as a kit.yaml has it."""
    if isinstance(value, Mapping):
        # A Struct has no order.
        return {name: _plain(name, one) for name, one in sorted(value.items())}
    if isinstance(value, list):
        return [_plain(key, one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, str):
        if key == "seed" and value.lstrip("-").isdigit():
            return int(value)
        prefix = f"{key.upper()}_"
        if value.startswith(prefix):
            return value.removeprefix(prefix).lower()
    return value


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    used = [
        place for place in range(len(columns)) if any(row[place] not in ("", None) for row in rows)
    ]
    rows = [[row[place] for place in used] for row in rows]
    head = "".join(f"<th>{_text(columns[place])}</th>" for place in used)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f'<td class="number">{_number(value)}</td>'
    text = "" if value is None else str(value)
    kind = ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{_text(text)}</td>"


def _number(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value) if abs(value) < 1e6 else value
    return _text(_html.number(value))


def _items(texts: Iterable[str]) -> str:
    body = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f"<ul>{body}</ul>" if body else ""


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC" if text else ""


def _word(status: str) -> str:
    return status.removeprefix("STATUS_").lower()


def _text(text: str) -> str:
    return html.escape(text)


_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,'Noto Sans','Noto Sans KR','Malgun Gothic',sans-serif;"
    "max-width:62rem;margin:0 auto;padding:1.5rem;background:Canvas;color:CanvasText}"
    "h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;border-bottom:1px solid;margin-top:2rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1rem}caption{text-align:left;font-weight:600}"
    "th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #8886;"
    "vertical-align:top}th{white-space:nowrap}.long{overflow-wrap:anywhere;min-width:12rem}"
    ".number{font-variant-numeric:tabular-nums;white-space:nowrap}"
    ".wide{overflow-x:auto}pre{border:1px solid #8886;border-radius:6px;padding:.6rem;"
    "white-space:pre-wrap;overflow-wrap:anywhere}"
    "figure{display:inline-block;width:min(29rem,100%);margin:.5rem .5rem .5rem 0}"
    "img{width:100%;background:#fff}figcaption{font-size:.85rem}"
    "@media print{body{max-width:none;padding:0;color-scheme:light}figure,tr{break-inside:avoid}"
    "h2{break-after:avoid}.wide{overflow:visible}}"
)
