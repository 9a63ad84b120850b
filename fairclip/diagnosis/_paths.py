"""Which layers lead to which, in the graph of the forward pass."""

from collections.abc import Sequence

from torch.autograd.graph import Node

from fairclip.diagnosis._recorder import Layer


def followers(layers: Sequence[Layer]) -> dict[Layer, set[Layer]]:
    """Return for each layer the later ones that its outputs reach with no other in between."""
    place = {layer: i for i, layer in enumerate(layers)}
    nodes = {layer: {edge.node for call in layer.edges for edge in call} for layer in layers}
    makers: dict[Node, list[Layer]] = {}
    for layer in layers:
        for node in nodes[layer]:
            makers.setdefault(node, []).append(layer)
    found: dict[Layer, set[Layer]] = {layer: set() for layer in layers}
    for layer in layers:
        seen, open_nodes = set(nodes[layer]), list(nodes[layer])
        while open_nodes:
            node = open_nodes.pop()
            earlier = [x for x in makers.get(node, ()) if place[x] < place[layer]]
            for x in earlier:
                found[x].add(layer)
            if not earlier:
                nearer = {x for x, _ in node.next_functions if x is not None} - seen
                seen |= nearer
                open_nodes += nearer
    return found
