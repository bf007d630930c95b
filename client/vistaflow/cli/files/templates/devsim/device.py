"""One point: a device in DEVSIM, which is set up for each alone."""

import devsim


def run(length: float, doping: float) -> dict[str, float]:
    """A bar of silicon between two contacts at 1 mV."""
    device, region, end = "bar", "bulk", length * 1e-4
    devsim.create_1d_mesh(mesh="mesh")
    devsim.add_1d_mesh_line(mesh="mesh", pos=0, ps=end / 50, tag="left")
    devsim.add_1d_mesh_line(mesh="mesh", pos=end, ps=end / 50, tag="right")
    for tag in ("left", "right"):
        devsim.add_1d_contact(mesh="mesh", name=tag, tag=tag, material="metal")
    devsim.add_1d_region(mesh="mesh", material="Si", region=region, tag1="left", tag2="right")
    devsim.finalize_mesh(mesh="mesh")
    devsim.create_device(mesh="mesh", device=device)
    conductivity = 1.602e-19 * 1400 / (1 + (doping / 1e17) ** 0.7) * doping
    devsim.set_parameter(device=device, region=region, name="sigma", value=conductivity)
    devsim.node_solution(device=device, region=region, name="V")
    devsim.edge_from_node_model(device=device, region=region, node_model="V")
    for name, equation in {
        "J": "sigma * (V@n0 - V@n1) * EdgeInverseLength",
        "J:V@n0": "sigma * EdgeInverseLength",
        "J:V@n1": "-sigma * EdgeInverseLength",
    }.items():
        devsim.edge_model(device=device, region=region, name=name, equation=equation)
    devsim.equation(device=device, region=region, name="current", variable_name="V", edge_model="J")
    for tag, bias in (("left", 1e-3), ("right", 0.0)):
        devsim.contact_node_model(
            device=device, contact=tag, name=f"{tag}_bias", equation=f"V - {bias}"
        )
        devsim.contact_node_model(device=device, contact=tag, name=f"{tag}_bias:V", equation="1")
        devsim.contact_equation(
            device=device,
            contact=tag,
            name="current",
            node_model=f"{tag}_bias",
            edge_current_model="J",
        )
    devsim.solve(type="dc", absolute_error=1e-12, relative_error=1e-9, maximum_iterations=20)
    current = devsim.get_contact_current(device=device, contact="left", equation="current")
    return {"resistance": 1e-3 / abs(current)}
