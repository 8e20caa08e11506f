"""The command `yard chat`, a talk with a served model in the terminal."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.base.errors import ConfigError, TrainyardError

if TYPE_CHECKING:
    from tasks.vision_language.talk import Talk

_HELP = "/image PATH shows one more image, /new begins anew, Ctrl-C stops an answer, Ctrl-D ends"


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(chat)


def chat(
    images: Annotated[list[Path] | None, typer.Argument(help="Go with the first question")] = None,
    url: Annotated[str | None, typer.Option(help="Of a server of OpenAI's chat API")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a model; it is served for the time of the talk")] = None,
    run: Annotated[str | None, typer.Option(help="That serves, or the name of its model; the only one without")] = None,
    device: Annotated[str, typer.Option(help="Of --model: cpu, cuda (the least loaded GPU), cuda:0 ...")] = "cuda",
    token_file: Annotated[Path | None, typer.Option(help="With the token that the server asks for")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this alone, and print the answer alone")
    ] = None,
) -> None:
    """Ask a vision-language model about images; each question takes along what was said before.

    Without a terminal each line of the input is a question; exit code 1: one was not answered, and the rest not asked.
    """
    if sum(value is not None for value in (url, model, run)) > 1:
        raise ConfigError("found several of --url, --model and --run, need one of them")
    try:
        with _talk(url, model, run, device, token_file) as talk:
            _converse(talk, images or [], prompt)
    except KeyboardInterrupt as exc:
        raise typer.Exit(130) from exc


def _converse(talk: "Talk", images: list[Path], prompt: str | None) -> None:
    seat = _Seat(talk, images)
    if prompt is not None:
        seat.ask(prompt)
    elif sys.stdin.isatty():
        typer.echo(f"{talk.model} at {talk.url}; {_HELP}", err=True)
        seat.converse()
    else:
        for line in sys.stdin:
            seat.take(line)


@contextmanager
def _talk(
    url: str | None, model: Path | None, run: str | None, device: str, token_file: Path | None
) -> Iterator["Talk"]:
    from contextlib import ExitStack

    from deployments.runs.served_models import find_served, serving_here, token_of
    from tasks.vision_language.engine_process import free_port
    from tasks.vision_language.model_folder import check_extra, check_model_folder
    from tasks.vision_language.talk import Talk
    from tasks.vision_language.token_file import read_token

    token = read_token(token_file) if token_file else ""
    with ExitStack() as stack:
        if model is not None:
            check_extra()
            check_model_folder(model)
            typer.echo(f"starts {model.name} on {device}", err=True)
            url = stack.enter_context(serving_here(model, device, free_port()))
        elif url is None:
            served = find_served(run)
            url, token = served.address.url, token or token_of(served)
        yield stack.enter_context(closing(Talk(url, token)))


class _Seat:
    """The one who asks.

    Args:
        talk: that the questions belong to.
        images: files that go with the first question.

    Raises:
        ImageError: one cannot be read.
    """

    def __init__(self, talk: "Talk", images: list[Path]) -> None:
        from tasks.vision_language.talk import image_url

        self._talk = talk
        self._images = [image_url(path) for path in images]

    def converse(self) -> None:
        """Take lines from the terminal until Ctrl-D; errors are told, and the talk goes on."""
        import readline  # noqa: F401  (the arrow keys bring back earlier lines)

        while (line := _line()) is not None:
            try:
                self.take(line)
            except KeyboardInterrupt:
                typer.echo("(stopped)", err=True)
            except TrainyardError as exc:
                typer.secho(f"error: {exc}", fg="red", err=True)

    def take(self, line: str) -> None:
        """Do what a line says: ask, or show one more image, or begin anew.

        Raises:
            ConfigError: it is no command.
            ImageError: the image cannot be read.
            TalkError: it is not answered.
        """
        from tasks.vision_language.talk import image_url

        word, _, rest = line.strip().partition(" ")
        if word == "/new":
            self._talk.forget()
            self._images.clear()
        elif word == "/image" and rest:
            self._images.append(image_url(Path(rest.strip())))
        elif word.startswith("/") and word.count("/") == 1:
            raise ConfigError(f"found {word}, need a question or a command: {_HELP}")
        elif word:
            self.ask(line.strip())

    def ask(self, prompt: str) -> None:
        """Print the answer as it comes; the images stay for the next question where there is none.

        Raises:
            TalkError: it is not answered.
        """
        from tasks.vision_language.talk import printable

        said = False
        try:
            with closing(self._talk.ask(prompt, self._images)) as pieces:
                for piece in pieces:
                    said = True
                    typer.echo(printable(piece), nl=False)
                    sys.stdout.flush()
        except TrainyardError:
            said = False
            raise
        finally:
            if said:
                self._images.clear()
            typer.echo("")


def _line() -> str | None:
    """Return what a person writes; None: Ctrl-D."""
    while True:
        try:
            return input("> ")
        except EOFError:
            typer.echo("", err=True)
            return None
        except KeyboardInterrupt:
            typer.echo(f"\n{_HELP}", err=True)
