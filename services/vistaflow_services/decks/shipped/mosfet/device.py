"""The transistor: its mesh, its doping and the equations on them."""

from __future__ import annotations

import itertools
import math

import devsim

NM = 1e-7  # cm
CHARGE = 1.602177e-19  # C
THERMAL = 0.02585199  # kT/q in V at 300 K
INTRINSIC = 1.0e10  # cm^-3
PERMITTIVITY = 8.854188e-14  # F/cm
SILICON = 11.7 * PERMITTIVITY
OXIDE = 3.9 * PERMITTIVITY
GATE_OFFSET = 0.56  # V: the n+ polysilicon gate's Fermi level above midgap
SATURATION_VELOCITY = 1.07e7  # cm/s
SUPPLY = 1.2  # V

DEVICE, BULK, GATE_OXIDE = "mosfet", "bulk", "oxide"
CONTACTS = ("source", "drain", "body")

# The mesh. Twice the lines in both directions move the threshold by 1 mV, the swing by 0.2 %,
# `ion` by 3 % and `ioff` by 7 %, and take four times as long.
FINE_X, FINE_Y = 1.4, 0.28  # nm: the first step from the junction and from the surface
COUNTS = {"inner": 9, "well": 6, "contact": 2, "oxide": 2, "depth": 20}


def graded(start: float, end: float, first: float, count: int) -> list[float]:
    """`count` steps from `start` to `end`, the first of size `first`, in geometric progression.

    The ratio is found by bisection, so positions are smooth in all arguments.
    """
    span = abs(end - start) / abs(first)
    low, high = 1e-3, 50.0
    for _ in range(80):
        ratio = math.sqrt(low * high)
        total = sum(ratio**each for each in range(count))
        low, high = (ratio, high) if total < span else (low, ratio)
    sign = math.copysign(abs(first), end - start)
    positions, position = [], start
    for each in range(count):
        position += sign * ratio**each
        positions.append(position)
    positions[-1] = end
    return positions


def build_mesh(length: float, oxide: float, channel: float, wells: float, depth: float) -> None:
    """Makes the device with its doping on a rectangular mesh of a fixed number of lines."""
    half = 0.5 * length
    decay = depth / math.sqrt(math.log(wells / channel))
    lateral = 0.5 * decay
    junction = half - 0.25 * depth
    contact = half + 10 * NM
    outer = contact + 15 * NM
    depletion = math.sqrt(2 * SILICON * (SUPPLY + 1.0) / (CHARGE * channel))
    bottom = depth + 1.3 * depletion

    inner = graded(junction, 0.0, FINE_X * NM, COUNTS["inner"])
    right = sorted(
        [
            *inner,
            junction,
            *graded(junction, contact, FINE_X * NM, COUNTS["well"]),
            *graded(contact, outer, 4 * NM, COUNTS["contact"]),
        ]
    )
    xs = sorted({-each for each in right if each > 0} | set(right))
    ys = [-oxide * (1 - each / COUNTS["oxide"]) for each in range(COUNTS["oxide"])]
    ys += [0.0, *graded(0.0, bottom, FINE_Y * NM, COUNTS["depth"])]

    # The oxide lies below the gate, between the junctions; beside it the surface is insulated.
    columns = {
        GATE_OXIDE: range(xs.index(-junction), xs.index(junction) + 1),
        BULK: range(len(xs)),
    }
    surface = COUNTS["oxide"]
    rows = {GATE_OXIDE: range(surface + 1), BULK: range(surface, len(ys))}
    lines = {
        "source": (BULK, [each for each in columns[BULK] if xs[each] <= -contact], surface),
        "drain": (BULK, [each for each in columns[BULK] if xs[each] >= contact], surface),
        "body": (BULK, list(columns[BULK]), len(ys) - 1),
        "gate": (GATE_OXIDE, list(columns[GATE_OXIDE]), 0),
        "surface": (BULK, list(columns[GATE_OXIDE]), surface),
    }

    def node(column: int, row: int) -> int:
        return column * len(ys) + row

    names = [*rows, *lines]
    elements: list[int] = []
    for number, region in enumerate(rows):
        for column in list(columns[region])[:-1]:
            for row in list(rows[region])[:-1]:
                corners = (node(column, row), node(column + 1, row))
                below = (node(column, row + 1), node(column + 1, row + 1))
                elements += [2, number, *corners, below[0], 2, number, *below, corners[1]]
    for number, (_, spots, row) in enumerate(lines.values(), start=len(rows)):
        for left, right in itertools.pairwise(spots):
            elements += [1, number, node(left, row), node(right, row)]

    mesh = "mosfet_mesh"
    devsim.create_gmsh_mesh(
        mesh=mesh,
        coordinates=[value for x in xs for y in ys for value in (x, y, 0.0)],
        physical_names=names,
        elements=elements,
    )
    for region, material in ((BULK, "Silicon"), (GATE_OXIDE, "Oxide")):
        devsim.add_gmsh_region(mesh=mesh, gmsh_name=region, region=region, material=material)
    for name in (*CONTACTS, "gate"):
        devsim.add_gmsh_contact(
            mesh=mesh, gmsh_name=name, region=lines[name][0], name=name, material="metal"
        )
    devsim.add_gmsh_interface(
        mesh=mesh, gmsh_name="surface", region0=BULK, region1=GATE_OXIDE, name="surface"
    )
    devsim.finalize_mesh(mesh=mesh)
    devsim.create_device(mesh=mesh, device=DEVICE)

    def well(sign: str) -> str:
        # Gaussian in depth; in x the error function whose tail meets the body's doping at the
        # junction below the gate's edge.
        edge = junction + lateral * inverse_tail(channel / wells)
        return f"{wells!r}*exp(-((y/{decay!r})^2))*0.5*erfc(({edge!r}-({sign}x))/{lateral!r})"

    node_model(BULK, "Donors", f"{well('')}+{well('-')}")
    node_model(BULK, "NetDoping", f"Donors-{channel!r}")
    node_model(BULK, "Doping", f"Donors+{channel!r}")


def inverse_tail(fraction: float) -> float:
    """The z for which `erfc(z) / 2` is `fraction`."""
    low, high = 0.0, 8.0
    for _ in range(60):
        z = 0.5 * (low + high)
        low, high = (z, high) if 0.5 * math.erfc(z) > fraction else (low, z)
    return z


def node_model(region: str, name: str, equation: str) -> None:
    """Defines a quantity at the nodes of a region."""
    devsim.node_model(device=DEVICE, region=region, name=name, equation=equation)


def edge_model(region: str, name: str, equation: str) -> None:
    """Defines a quantity on the edges of a region."""
    devsim.edge_model(device=DEVICE, region=region, name=name, equation=equation)


def edge_with_derivatives(region: str, name: str, equation: str, *variables: str) -> None:
    """Defines an edge quantity and its derivatives to the variables at both ends."""
    edge_model(region, name, equation)
    for variable in variables:
        for end in ("@n0", "@n1"):
            edge_model(
                region, f"{name}:{variable}{end}", f"simplify(diff({equation}, {variable}{end}))"
            )


def contact_model(contact: str, name: str, equation: str) -> None:
    """Defines a quantity at the nodes of a contact."""
    devsim.contact_node_model(device=DEVICE, contact=contact, name=name, equation=equation)


def build_physics() -> None:
    """Poisson's equation everywhere, with the electrons of equilibrium as the first guess."""
    for region, permittivity in ((BULK, SILICON), (GATE_OXIDE, OXIDE)):
        parameters = {"Permittivity": permittivity, "q": CHARGE, "n_i": INTRINSIC, "V_t": THERMAL}
        for name, value in parameters.items():
            devsim.set_parameter(device=DEVICE, region=region, name=name, value=value)
        devsim.node_solution(device=DEVICE, region=region, name="Potential")
        devsim.edge_from_node_model(device=DEVICE, region=region, node_model="Potential")
        edge_with_derivatives(
            region,
            "Flux",
            "Permittivity*(Potential@n0-Potential@n1)*EdgeInverseLength",
            "Potential",
        )
    for contact in (*CONTACTS, "gate"):
        devsim.set_parameter(device=DEVICE, name=f"{contact}_bias", value=0.0)

    node_model(BULK, "Neutral", "V_t*asinh(NetDoping/(2*n_i))")
    devsim.set_node_values(device=DEVICE, region=BULK, name="Potential", init_from="Neutral")
    holes = "n_i*exp(-Potential/V_t)"
    node_model(BULK, "Holes", holes)
    node_model(BULK, "Holes:Potential", f"-{holes}/V_t")
    # Equilibrium first: electrons follow the potential too.
    node_model(BULK, "Charge", "-q*(Holes-n_i*exp(Potential/V_t)+NetDoping)")
    node_model(BULK, "Charge:Potential", "q*(Holes+n_i*exp(Potential/V_t))/V_t")
    for region, charge in ((BULK, "Charge"), (GATE_OXIDE, "")):
        devsim.equation(
            device=DEVICE,
            region=region,
            name="Poisson",
            variable_name="Potential",
            node_model=charge,
            edge_model="Flux",
            variable_update="log_damp",
        )
    for contact in CONTACTS:
        contact_model(contact, f"{contact}_potential", f"Potential-{contact}_bias-Neutral")
    contact_model("gate", "gate_potential", f"Potential-gate_bias-{GATE_OFFSET!r}")
    for contact in (*CONTACTS, "gate"):
        contact_model(contact, f"{contact}_potential:Potential", "1")
        devsim.contact_equation(
            device=DEVICE, contact=contact, name="Poisson", node_model=f"{contact}_potential"
        )
    continuity = "Potential@r0-Potential@r1"
    for name, equation in (
        ("step", continuity),
        ("step:Potential@r0", "1"),
        ("step:Potential@r1", "-1"),
    ):
        devsim.interface_model(device=DEVICE, interface="surface", name=name, equation=equation)
    devsim.interface_equation(
        device=DEVICE,
        interface="surface",
        name="Poisson",
        interface_model="step",
        type="continuous",
    )


def add_electrons() -> None:
    """Couples the electrons' continuity equation to Poisson's, from the solved equilibrium."""
    devsim.node_solution(device=DEVICE, region=BULK, name="Electrons")
    node_model(BULK, "Equilibrium", "n_i*exp(Potential/V_t)")
    devsim.set_node_values(device=DEVICE, region=BULK, name="Electrons", init_from="Equilibrium")
    devsim.edge_from_node_model(device=DEVICE, region=BULK, node_model="Electrons")
    node_model(BULK, "Charge", "-q*(Holes-Electrons+NetDoping)")
    node_model(BULK, "Charge:Potential", "q*Holes/V_t")
    node_model(BULK, "Charge:Electrons", "q")
    node_model(BULK, "LowField", "88+1252/(1+0.698*Doping/1e17)")
    devsim.edge_average_model(
        device=DEVICE,
        region=BULK,
        node_model="LowField",
        edge_model="LowFieldEdge",
        average_type="geometric",
    )
    edge_with_derivatives(BULK, "Drop", "(Potential@n0-Potential@n1)/V_t", "Potential")
    velocity = "LowFieldEdge*(Potential@n0-Potential@n1)*EdgeInverseLength"
    edge_with_derivatives(
        BULK,
        "Mobility",
        f"LowFieldEdge/(1+({velocity}/{SATURATION_VELOCITY!r})^2)^0.5",
        "Potential",
    )
    current = "q*Mobility*EdgeInverseLength*V_t*(Electrons@n1*(B(Drop)+Drop)-Electrons@n0*B(Drop))"
    edge_with_derivatives(BULK, "Current", current, "Potential", "Electrons")
    devsim.equation(
        device=DEVICE,
        region=BULK,
        name="Continuity",
        variable_name="Electrons",
        edge_model="Current",
        variable_update="positive",
    )
    devsim.equation(
        device=DEVICE,
        region=BULK,
        name="Poisson",
        variable_name="Potential",
        node_model="Charge",
        edge_model="Flux",
        variable_update="default",
    )
    node_model(BULK, "Ohmic", "n_i*exp(Neutral/V_t)")
    for contact in CONTACTS:
        contact_model(contact, f"{contact}_electrons", "Electrons-Ohmic")
        contact_model(contact, f"{contact}_electrons:Electrons", "1")
        devsim.contact_equation(
            device=DEVICE,
            contact=contact,
            name="Continuity",
            node_model=f"{contact}_electrons",
            edge_current_model="Current",
        )
