"""Which runs a command changes: those that are named, or those that its options choose, after a question."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.base.errors import ConfigError

if TYPE_CHECKING:
    from deployments.sharing.acts import Acts


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options say that commands have in common which change runs; each field is one of them."""

    everything: Annotated[bool, typer.Option("--all", help="All that the other options leave")] = False
    flow: Annotated[str | None, typer.Option(help="All of this flow")] = None
    owner: Annotated[str | None, typer.Option(help="All of this user, user@host, or me")] = None
    force: Annotated[bool, typer.Option("--force", help="Of somebody else, too; it is noted")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without a question")] = False

    @property
    def chooses(self) -> bool:
        """Whether an option says which runs."""
        return bool(self.everything or self.flow or self.owner)

    def check(self, runs: Sequence[str] | None, also: bool = False) -> None:
        """Hold the runs that were named against the options that choose some.

        Args:
            runs: that were named.
            also: an option of the command's own chooses.

        Raises:
            ConfigError: both were given, or neither.
        """
        if bool(runs) == (self.chooses or also):
            what = "runs and options" if runs else "nothing"
            raise ConfigError(f"found {what}, need runs, or options that say which")

    def agreed(self, acts: "Acts", verb: str, found: Sequence[dict[str, Any]], what: str = "") -> list[str]:
        """List runs, and return the ids of those that the caller may change and says yes to; the others are named."""
        from deployments.runs.find import is_later
        from deployments.sharing.permissions import run_target
        from gpu_pools.names import short_id

        mine = [run for run in found if not acts.fault(verb, run_target(run))]
        for run in found:
            state = "later" if is_later(run) else run["state_name"]
            left = "" if run in mine else f"  left: of {run_target(run).owner}"
            typer.echo(f"{short_id(run['id'])}  {state:<10}  {run['name']}{left}")
        if not found:
            typer.echo("no such runs")
        elif not mine:
            raise ConfigError(f"none of them is yours to {verb}: --force does it all the same, and is noted")
        else:
            self.ask(f"{verb} {len(mine)} run{'s' * (len(mine) > 1)}{f': {what}' if what else ''}?")
        return [run["id"] for run in mine]

    def ask(self, question: str) -> None:
        """Ask in the terminal, unless --yes was said; end the command at a no.

        Raises:
            ConfigError: there is no terminal to ask in.
        """
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise ConfigError(f"found no terminal to ask in ({question}), need --yes")
        typer.confirm(question, abort=True)


def with_choice(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Choice`, in place of its parameter `choice`."""
    own = [one for one in signature(command).parameters.values() if one.name != "choice"]
    options = [
        Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type) for one in fields(Choice)
    ]

    @wraps(command)
    def chosen(**given: Any) -> None:
        command(
            **{one.name: given[one.name] for one in own},
            choice=Choice(**{one.name: given[one.name] for one in options}),
        )

    # From these typer reads what the command takes.
    chosen.__dict__["__signature__"] = Signature([*own, *options])
    chosen.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
    return chosen
