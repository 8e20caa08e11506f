"""What is changed in Prefect's server."""

import asyncio
import sqlite3

import pytest
import redis

from deployments.services.prefect_server import guard_server


def test_a_transaction_on_sqlite_has_its_turn_from_its_beginning(tmp_path):
    """One that would only read at first could be refused at its first write: the client hears 503, and waits."""
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy import text

    guard_server()
    path = tmp_path / "prefect.db"

    async def write_beside_a_reader():
        configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
        engine = await configuration.engine()
        session = await configuration.session(engine)
        async with session, configuration.begin_transaction(session):
            await session.execute(text("SELECT 1"))
            with sqlite3.connect(path, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("CREATE TABLE theirs (x)")
            await session.execute(text("CREATE TABLE mine (x)"))
        await engine.dispose()

    asyncio.run(write_beside_a_reader())
    with sqlite3.connect(path) as after:
        assert after.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_session_that_reads_beside_a_transaction_does_not_wait_for_it(tmp_path):
    """Prefect opens one while a queue is being paused: it would wait a minute for itself, and answer 503."""
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy import text

    guard_server()

    async def read_while_writing():
        configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}")
        engine = await configuration.engine()
        outer, inner = await configuration.session(engine), await configuration.session(engine)
        async with outer, configuration.begin_transaction(outer):
            await outer.execute(text("CREATE TABLE mine (x)"))
            async with inner, asyncio.timeout(10):
                await inner.execute(text("SELECT 1"))
        await engine.dispose()

    asyncio.run(read_while_writing())


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), 503),  # PostgreSQL is being started again
        (redis.exceptions.ConnectionError("Connection refused"), 503),
        (ValueError("a fault of the program"), 500),
    ],
    ids=["database", "redis", "fault"],
)
def test_clients_are_to_come_again_while_the_database_or_redis_is_away(exc, status):
    from prefect.server.api import server

    guard_server()
    assert asyncio.run(server.custom_internal_exception_handler(None, exc)).status_code == status
