"""placeholder"""

from __future__ import annotations

from starlette.routing import BaseRoute

from flows.local.http.calls import World


def routes(world: World) -> list[BaseRoute]:
    return []
