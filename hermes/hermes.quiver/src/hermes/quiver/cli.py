"""``hermes-quiver``: look at repositories from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from hermes.quiver.ensembles import Ensemble
from hermes.quiver.errors import QuiverError, VerificationFailed
from hermes.quiver.models import ExposedTensor, Model
from hermes.quiver.repository import ModelRepository

__all__ = ("main",)

_FOUND = 1
_FAILED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None for ``sys.argv``.

    Returns:
        The exit status: 0 if all is well, 1 if lint found an error or a
        stream differs, 2 if the command could not be carried out.
    """
    options = _parser().parse_args(arguments)
    try:
        repository = ModelRepository(
            options.root, **dict(options.storage_option)
        )
        status, answer, text = options.run(repository, options)
    except (QuiverError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return _FAILED
    print(json.dumps(answer, indent=2) if options.json else text)  # noqa: T201
    return int(status)


Answer = tuple[int, Any, str]


def _ls(repository: ModelRepository, _: argparse.Namespace) -> Answer:
    rows = [
        {
            "name": name,
            "platform": str(model.platform) or None,
            "versions": model.versions,
            "problem": model.problem,
        }
        for name, model in repository.models.items()
    ]
    table = [
        (
            str(row["name"]),
            str(row["platform"] or "unknown"),
            ",".join(map(str, model.versions)) or "no version",
            str(row["problem"] or ""),
        )
        for row, model in zip(rows, repository.models.values(), strict=True)
    ]
    return 0, rows, _columns(table) or f"no models in {repository.root}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _inspect(
    repository: ModelRepository, options: argparse.Namespace
) -> Answer:
    model = repository.models[options.model]
    answer = {
        "name": model.name,
        "platform": str(model.platform) or None,
        "versions": model.versions,
        "problem": model.problem,
        "inputs": [_tensor(t) for t in model.inputs.values()],
        "outputs": [_tensor(t) for t in model.outputs.values()],
        "config": model.config.to_dict(),
    }
    if isinstance(model, Ensemble):
        answer["mermaid"] = model.to_mermaid()
        if options.mermaid:
            return 0, answer, model.to_mermaid()
    return 0, answer, _describe(model)


def _tensor(tensor: ExposedTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": str(tensor.dtype),
        "shape": list(tensor.shape),
    }


def _describe(model: Model) -> str:
    versions = ", ".join(map(str, model.versions)) or "none"
    lines = [f"{model.name} ({model.platform}), versions: {versions}"]
    if model.problem:
        lines.append(f"  problem: {model.problem}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        lines += [
            f"  {kind:6} {t.name} {t.dtype}{list(t.shape)}"
            for t in tensors.values()
        ]
    for state, (shape, dtype) in model.config.state_shapes().items():
        lines.append(f"  state  {state} {dtype}{list(shape)}")
    if isinstance(model, Ensemble):
        lines.append(str(model))
    return "\n".join(lines)


def _lint(repository: ModelRepository, options: argparse.Namespace) -> Answer:
    found = repository.lint(
        options.sample_rate, options.container, options.gpu
    )
    wrong = any(finding.severity == "error" for finding in found)
    text = "\n".join(map(str, found)) or "nothing found"
    return _FOUND * wrong, [dataclasses.asdict(f) for f in found], text


def _verify(
    repository: ModelRepository, options: argparse.Namespace
) -> Answer:
    try:
        report = repository.verify_stream(options.ensemble)
    except VerificationFailed as error:
        answer = {"is_equal": False, "message": str(error)}
        return _FOUND, answer, str(error)
    return 0, {"is_equal": True, **dataclasses.asdict(report)}, str(report)


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        msg = f"{text!r} is not KEY=VALUE"
        raise argparse.ArgumentTypeError(msg)
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hermes-quiver", description="Look at Triton model repositories."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "root", help="a directory, gs://bucket/prefix, s3://bucket/prefix, ..."
    )
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument(
        "--storage-option",
        metavar="KEY=VALUE",
        type=_option,
        action="append",
        default=[],
        help="passed to the storage; the value may be JSON",
    )

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[shared], help=text)
        command.set_defaults(run=run)
        return command

    add("ls", _ls, "list the models")
    inspect = add("inspect", _inspect, "show a model, or an ensemble's graph")
    inspect.add_argument("model")
    inspect.add_argument(
        "--mermaid", action="store_true", help="an ensemble's flow chart"
    )
    lint = add("lint", _lint, "find what would go wrong on a server")
    lint.add_argument(
        "--sample-rate", type=float, help="samples of the stream per second"
    )
    lint.add_argument("--container", help="Triton's release, such as 25.06")
    lint.add_argument(
        "--gpu", help="such as A100, or a compute capability such as 8.0"
    )
    verify = add("verify", _verify, "prove that a stream is exact")
    verify.add_argument("ensemble")
    return parser


if __name__ == "__main__":
    sys.exit(main())
