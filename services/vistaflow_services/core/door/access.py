"""Who may make which call: read from the protos' `access` option, and from nowhere else."""

from __future__ import annotations

from google.protobuf import descriptor_pool

from vistaflow.api.common.v1 import access_pb2
from vistaflow_services.core.door.callers import AccessRule, Role

HEALTH = "grpc.health.v1.Health"
REFLECTION = frozenset(
    {"grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}
)

OPEN = frozenset({HEALTH})
"""Services that answer every caller: a load balancer has no token."""

NOBODY = AccessRule(role=None)


_rules: dict[str, AccessRule] = {}


def rule_of(method: str) -> AccessRule | None:
    """Who may make a call, such as `/vistaflow.api.doe.v1.DoeService/GetDesign`.

    Returns:
        None for a method that the protos do not know. One that they know and that has no `access`
        is refused to everybody.
    """
    rule = _rules.get(method)
    if rule is None:
        rule = _read(method)
        # What is unknown now may be known once its proto is imported.
        if rule is not None:
            _rules[method] = rule
    return rule


def _read(method: str) -> AccessRule | None:
    service_name, _, name = method.lstrip("/").rpartition("/")
    if service_name in REFLECTION:
        # Descriptions of calls are not secret, and tools that show messages need them.
        return AccessRule(role=Role.VIEWER, worker=True, reader=True)
    try:
        service = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return None
    method_descriptor = service.methods_by_name.get(name)
    if method_descriptor is None:
        return None
    options = method_descriptor.GetOptions()
    if not options.HasExtension(access_pb2.access):
        return NOBODY
    access = options.Extensions[access_pb2.access]
    return AccessRule(role=role_of(access.role), worker=access.worker, reader=access.reader)


def role_of(number: access_pb2.Role.ValueType) -> Role | None:
    """The role of an enum value; None for one that names no role."""
    try:
        return Role(access_pb2.Role.Name(number).removeprefix("ROLE_"))
    except ValueError:
        return None


def role_number(role: Role) -> access_pb2.Role.ValueType:
    """The enum value of a role."""
    return access_pb2.Role.Value(f"ROLE_{role.value}")
