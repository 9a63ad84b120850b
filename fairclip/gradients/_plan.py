"""Which calls give which parameter's group sums, and how."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fairclip.gradients._attention import takes_rows
from fairclip.gradients._call import Call, Key, Pattern
from fairclip.gradients._layout import Layout
from fairclip.gradients._owners import Owners
from fairclip.gradients._probe import Layouts, has_rows
from fairclip.gradients._recorder import has_user_hooks
from fairclip.gradients._rerun import can_rerun
from fairclip.gradients._rules import Rule, find_rule


@dataclass(frozen=True, slots=True)
class Route:
    """How calls of one kind are served.

    Args:
        layouts: Of the leaves of inputs and outputs.
        rows: Which inputs hold the rows, and how.
        is_plain: Whether rows are dimension 0 of the only input and the only output.
        rule: What serves the parameters in ``by_rule``.
        by_rule: Local and full names.
        by_rerun: Full names.
        alone: Whether the rows can be run without the rest of the batch.
    """

    layouts: Layouts
    rows: tuple[tuple[int, Layout], ...]
    is_plain: bool
    rule: Rule | None
    by_rule: Mapping[str, str]
    by_rerun: tuple[str, ...]
    alone: bool


@dataclass(slots=True)
class Plan:
    """What was learnt of a model's calls.

    Args:
        layouts: Of every kind of call that was learnt.
        rules: Of every kind of call that has one.
        by_rule: Modules with a rule, and the full names of the parameters it serves.
        by_rerun: Modules that are run again, and the full names of the parameters that this serves.
        alone: The run-again modules whose rows can run without the rest of the batch.
        outermost: The modules that no other one around them calls.
        transformed: Modules that are called inside of torch.func.
        missed: Parameters that rows reach past the modules that hold them.
    """

    layouts: dict[Pattern, Layouts] = field(default_factory=dict)
    rules: dict[Pattern, Rule] = field(default_factory=dict)
    by_rule: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    by_rerun: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    alone: dict[str, bool] = field(default_factory=dict)
    outermost: set[str] = field(default_factory=set)
    transformed: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    _routes: dict[Pattern, Route] = field(default_factory=dict)

    def knows(self, call: Call) -> bool:
        """Say whether a call is as it was learnt."""
        if call.is_transformed:
            return call.key[0] in self.transformed
        return call.pattern in self.layouts

    def route(self, call: Call, owners: Owners) -> Route:
        """Return how a call is served that was learnt."""
        route = self._routes.get(call.pattern)
        if route is None:
            route = self._routes[call.pattern] = self._make_route(call, owners)
        return route

    def learn(self, calls: Iterable[Call], found: Mapping[Key, Layouts]) -> None:
        """Take in the layouts of calls; where two calls of one kind differ, they are not known."""
        self._routes = {}
        for call in calls:
            unknown: Layouts = [None] * len(call.pattern[1])
            layouts = found.get(call.key, unknown)
            if self.layouts.setdefault(call.pattern, layouts) != layouts:
                self.layouts[call.pattern] = unknown

    def served(self) -> set[str]:
        """Return the parameters that some call serves."""
        return set().union(*self.by_rule.values(), *self.by_rerun.values())

    def assign(self, names: Iterable[str], owners: Owners, calls: Sequence[Call]) -> None:
        """Decide for each parameter of `names` which modules' calls serve it.

        The modules that hold it do, by their rule or by being run again. Where their rows are not
        known, or where none of them was called, the nearest module around them that was called
        does; for a parameter of several modules, the outermost ones.

        Raises:
            RuntimeError: If no module around a parameter has outputs with rows.
        """
        modules = _by_module(calls)
        for name in names:
            holders = [module for module, held in owners.items() if name in held.values()]
            called = [module for module in holders if module in modules]
            serving = self._serving(name)
            is_handed_over = not serving.issubset(holders)
            if name in self.missed or (is_handed_over and serving.isdisjoint(modules)):
                self.hand_over(name, [], calls)
            elif serving and (is_handed_over or not called):
                continue  # as it was learnt before
            elif called and all(self._serves_itself(modules[module]) for module in called):
                self._unassign(name, called)
                for module in called:
                    by = self.by_rule if self._has_rule(modules[module]) else self.by_rerun
                    by[module].add(name)
                    self.rules.update(
                        {
                            call.pattern: rule
                            for call in modules[module]
                            if (rule := self._rule(call))
                        }
                    )
            else:
                self.hand_over(name, holders, calls)

    def hand_over(self, name: str, holders: Sequence[str], calls: Sequence[Call]) -> None:
        """Let the nearest module around a parameter's only holder serve it, else the outermost.

        Raises:
            RuntimeError: If no module around the parameter has outputs with rows.
        """
        modules = _by_module(calls)
        # Outermost modules that were not called now serve it when they are.
        self._unassign(name, self._serving(name).difference(self.outermost.difference(modules)))
        for module in _ancestors(holders[0]) if len(holders) == 1 else []:
            if module in modules and self._can_rerun(modules[module]):
                self.by_rerun[module].add(name)
                return
        outermost = [module for module in self.outermost if module in modules]
        nested = any(self.outermost.intersection(_ancestors(module)) for module in outermost)
        if (
            nested
            or not outermost
            or not all(self._can_rerun(modules[module]) for module in outermost)
        ):
            raise RuntimeError(_cannot(name))
        for module in outermost:
            self.by_rerun[module].add(name)

    def keep(self, name: str, other: "Plan") -> None:
        """Serve a parameter as another plan does."""
        self._unassign(name, self._serving(name))
        for mine, others in ((self.by_rule, other.by_rule), (self.by_rerun, other.by_rerun)):
            for module, served in others.items():
                if name in served:
                    mine[module].add(name)

    def run_together(self) -> None:
        """Run no rows without the rest of the batch."""
        self.alone = dict.fromkeys(self.alone, False)
        self._routes = {}

    def copy(self) -> "Plan":
        """Return a plan that can be changed on its own."""
        copy = replace(self, layouts=dict(self.layouts), rules=dict(self.rules))
        copy.by_rule = defaultdict(set, {name: set(held) for name, held in self.by_rule.items()})
        copy.by_rerun = defaultdict(set, {name: set(held) for name, held in self.by_rerun.items()})
        copy.alone = dict(self.alone)
        copy._routes = {}
        return copy

    def _make_route(self, call: Call, owners: Owners) -> Route:
        module, layouts = call.key[0], self.layouts[call.pattern]
        by_rule = self.by_rule[module]
        return Route(
            layouts,
            tuple((i, x) for i, x in enumerate(layouts[: len(call.inputs)]) if x and has_rows(x)),
            layouts == [Layout(0), Layout(0)],
            self.rules.get(call.pattern) if by_rule else None,
            {local: name for local, name in owners.get(module, {}).items() if name in by_rule},
            tuple(sorted(self.by_rerun[module])),
            self.alone.get(module, False),
        )

    def _serving(self, name: str) -> set[str]:
        """Return the modules that serve a parameter."""
        return {
            module
            for by in (self.by_rule, self.by_rerun)
            for module, served in by.items()
            if name in served
        }

    def _unassign(self, name: str, modules: Iterable[str]) -> None:
        self._routes = {}
        for module in modules:
            self.by_rule[module].discard(name)
            self.by_rerun[module].discard(name)

    def _rule(self, call: Call) -> Rule | None:
        """Return the rule that serves a call, None where rows are not known or none does."""
        layouts = self.layouts.get(call.pattern, [])
        if len(layouts) != 2 or layouts[0] is None or not all(map(has_rows, layouts)):
            return None  # every rule takes one input and gives one output
        if has_user_hooks(call.module):
            return None  # they may make the weights, or change what goes in and comes out
        return find_rule(call.module, layouts[0].dim)

    def _serves_itself(self, calls: Sequence[Call]) -> bool:
        return self._has_rule(calls) or self._can_rerun(calls)

    def _has_rule(self, calls: Sequence[Call]) -> bool:
        return all(self._rule(call) or self._is_projected(call) for call in calls)

    def _is_projected(self, call: Call) -> bool:
        """Say whether all that an attention does with its parameters is known."""
        layouts = self.layouts.get(call.pattern, [])[: len(call.inputs)]
        return bool(call.projections and layouts) and takes_rows(call.module, layouts, call.spec)

    def _can_rerun(self, calls: Sequence[Call]) -> bool:
        return all(can_rerun(call, self.layouts.get(call.pattern)) for call in calls)


def _by_module(calls: Iterable[Call]) -> dict[str, list[Call]]:
    modules: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.is_reached:
            modules[call.key[0]].append(call)
    return modules


def _ancestors(module: str) -> list[str]:
    """Return the names of the modules around one, the nearest first and the model last."""
    names = []
    while module:
        module = module.rpartition(".")[0]
        names.append(module)
    return names


def _cannot(name: str) -> str:
    return (
        f"The rows of the batch cannot be told apart where parameter '{name}' is used: neither the "
        "module that holds it nor any module around it returns one output a row. Let the model "
        "return its outputs, padded if they are packed, and compute the loss outside of it, or use "
        "`clipper.backward(losses, groups)`."
    )
