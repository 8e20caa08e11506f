"""Deployments under their old name `yard` get the one that prefect.yaml has, and are still found by the old one.

Prefect's API changes no name: a deployment made anew beside the old one would have neither its schedules nor its runs,
and automations name it by its id. So the name is changed in the server's database, while the server starts.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from gpu_pools.project_flows import OLD_NAME, deployment_names
from tasks.base.servers.guard import Scope

_OLD_PATH = re.compile(rf"(?P<before>/api/deployments/name/(?P<flow>[^/]+)/){OLD_NAME}/?")

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def renaming(lifespan: Lifespan) -> Lifespan:
    """Return the lifespan of Prefect's application with the renaming between its start and its first request."""

    @asynccontextmanager
    async def renamed(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            await rename_deployments()
            yield state

    return renamed


async def rename_deployments() -> None:
    """Rename the deployments of the project's flows that have their old name; the rest of them stays as it is."""
    import sqlalchemy
    from prefect.server.database import provide_database_interface

    db, names = provide_database_interface(), deployment_names()
    made = db.Deployment
    of_ours = sqlalchemy.select(made.id, made.flow_id, db.Flow.name).join(db.Flow, db.Flow.id == made.flow_id)
    old = of_ours.where(made.name == OLD_NAME, db.Flow.name.in_(names))
    async with db.session_context(begin_transaction=True) as session:
        for deployment, flow, flow_name in (await session.execute(old)).all():
            new = {"name": names[flow_name]}
            has_both = sqlalchemy.select(made.id).where(made.flow_id == flow, made.name == new["name"])
            if await session.scalar(has_both) is None:
                await session.execute(sqlalchemy.update(made).where(made.id == deployment).values(new))


def by_new_name(scope: Scope) -> Scope:
    """Return a request, changed where it asks for a deployment by its old name, as programs of before do."""
    found = _OLD_PATH.fullmatch(scope.get("path", ""))
    name = deployment_names().get(found["flow"]) if found else None
    if found is None or name is None:
        return scope
    path = f"{found['before']}{name}"
    return {**scope, "path": path, "raw_path": path.encode()}
