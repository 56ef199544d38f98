"""Costs of client and server for a face under each condition: multiply-adds, parameters, latencies."""

from __future__ import annotations

from collections.abc import Mapping

from torchkit.system import ProFaceC, recogniser_cost, system_cost
from torchkit.util.cost import Cost
from validation.measure.conditions import Condition, Party

PARTIES = ("client", "server")


def measure_costs(system: ProFaceC) -> dict[Party, Cost]:
    """Measure the cost of each network that a party may run, once."""
    both = system_cost(system)
    return {"client": both.client, "compensated server": both.server, "recogniser": recogniser_cost(system.recogniser)}


def cost_extras(condition: Condition, costs: Mapping[Party, Cost]) -> dict[str, float]:
    """Return the cost entries of a row of results; a party that runs no network costs nothing."""
    extras: dict[str, float] = {}
    for name, runs in zip(PARTIES, (condition.client_runs, condition.server_runs), strict=True):
        cost = Cost(0, 0, 0.0, 0.0) if runs is None else costs[runs]
        extras[f"{name}_macs"] = cost.multiply_adds
        extras[f"{name}_parameters"] = cost.parameters
        extras[f"{name}_latency_ms"] = cost.latency_ms
        if cost.onnx_latency_ms is not None:
            extras[f"{name}_onnx_latency_ms"] = cost.onnx_latency_ms
    return extras
