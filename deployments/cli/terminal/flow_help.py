"""Flows and their parameters in the terminal: after `--help`, and what a shell completes."""

import shutil
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tasks.base.errors import ConfigError

_WIDEST = 120


class FlowCommand(TyperCommand):
    """A command on a flow: `--help` lists the flows, and after the name of one its parameters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the parameters of the flow where both a flow and --help are given."""
        if ctx.resilient_parsing:  # for a shell that completes; at an option without its value no flow would be found
            return super().parse_args(ctx, args[:-1] if args and args[-1].startswith("-") else args)
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        flow = given.get("flow")
        if given.get("help") and isinstance(flow, str):
            typer.echo(f"Usage: {ctx.command_path} {flow} [OPTIONS]\n\n{parameters_text(flow)}\n")
            typer.echo(f"`{ctx.command_path} --help` shows the options.")
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Add the flows to the usual help."""
        super().format_help(ctx, formatter)
        formatter.write(f"{flows_text()}\n\n`{ctx.command_path} FLOW --help` shows the parameters of one.\n")


def flows_text() -> str:
    """Return a line for each flow."""
    from deployments.runs.flow_list import descriptions

    lines = descriptions()
    width = max(map(len, lines))
    return "\n".join(["Flows:", *(f"  {name:<{width}}  {line}" for name, line in lines.items())])


def parameters_text(flow_name: str) -> str:
    """Return what a flow does, and a paragraph for each of its parameters.

    Raises:
        ConfigError: there is no such flow.
    """
    from deployments.runs.flow_list import descriptions
    from deployments.runs.flow_parameters import flow_parameters

    parameters = flow_parameters(flow_name)
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines = [descriptions()[flow_name], "", "Parameters, to be set one by one (--set NAME=VALUE) or in a file (-f):"]
    for parameter in parameters:
        lines += _paragraph(parameter, width)
    return "\n".join(lines)


def _paragraph(parameter: Any, width: int) -> Iterator[str]:
    if not parameter.kind:
        default = f" (default: {parameter.default})" if parameter.default else ""
        yield ""
        yield from _wrapped(parameter.name, f": {parameter.meaning}{default}", width, "")
        return
    default = f"default {parameter.default}" if parameter.default is not None else "needed"
    facts = ", ".join(filter(None, [parameter.kind, parameter.bounds, default]))
    yield from _wrapped(parameter.name, f"  {facts}", width, "  ")
    yield from textwrap.wrap(parameter.meaning, width, initial_indent="      ", subsequent_indent="      ")


def _wrapped(name: str, text: str, width: int, indent: str) -> Iterator[str]:
    first, *rest = textwrap.wrap(name + text, width, initial_indent=indent, subsequent_indent=f"{indent}    ")
    yield first.replace(name, typer.style(name, bold=True), 1)  # now: what makes it bold has no width
    yield from rest


def complete_flow(incomplete: str) -> list[tuple[str, str]]:
    """Return the flows that begin so, each with what it does."""
    from deployments.runs.flow_list import descriptions

    try:
        return [(name, line) for name, line in descriptions().items() if name.startswith(incomplete)]
    except ConfigError:  # a setting is wrong: the command itself says so
        return []


def complete_parameter(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return what NAME=VALUE may go on with: names of the flow's parameters, then the words that one may be."""
    from deployments.runs.flow_parameters import flow_parameters

    try:
        known = {each.name: each for each in flow_parameters(ctx.params.get("flow") or "") if each.kind}
    except ConfigError:  # no flow, or none of that name: the command itself says so
        return []
    name, equals, value = incomplete.partition("=")
    if equals:
        return [(f"{name}={word}", "") for word in _words(known.get(name)) if word.startswith(value)]
    before = [word for word in ctx.params.get("values") or () if word != "="]
    if before and before[-1] in known:  # bash cuts at the =, and asks for the value alone
        return [(word, "") for word in _words(known[before[-1]]) if word.startswith(incomplete)]
    found = [each for each in known.values() if each.name.startswith(incomplete)]
    told = [(f"{each.name}=", each.meaning) for each in found]
    if len(found) == 1:  # several that begin alike: bash puts no space after the =
        told += [(f"{found[0].name}={word}", "") for word in _words(found[0])]
    return told


def _words(parameter: Any) -> list[str]:
    """Return the words that a parameter may be, or else its default; none for no parameter."""
    if parameter is None:
        return []
    return list(parameter.choices or ([parameter.default] if parameter.default else []))


FlowArgument = Annotated[
    str,
    typer.Argument(help="One of the flows below", autocompletion=complete_flow),
]
MaybeFlowArgument = Annotated[
    str | None,
    typer.Argument(metavar="[FLOW]", help="One of the flows below", autocompletion=complete_flow),
]
ValuesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=VALUE]...", help="data=/images train.num_epochs=3", autocompletion=complete_parameter
    ),
]
