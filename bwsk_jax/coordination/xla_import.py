"""Rewrite a lowered module into the form in which XLA hands it to Shardy.

XLA does not give Shardy the StableHLO that JAX lowers to. It reads the module into HLO, inlines calls,
simplifies loops and writes StableHLO again; what Shardy finds depends on that form. This file and `shardy`
are the only ones that know MLIR, and `_through_hlo` the only function that calls into jaxlib's extension.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from jaxlib import _jax  # pyright: ignore[reportAttributeAccessIssue]
from jaxlib.mlir import ir

__all__ = ["all_operations", "as_xla_imports", "main_of", "mesh_of", "operations"]


def as_xla_imports(module: ir.Module) -> Any:
    """A new module operation, as Shardy would get it from XLA; `module` stays as it is.

    Manual computations (`shard_map`) do not survive the way through HLO and back, so a module that has one is
    not taken through it.
    """
    with module.context, ir.Location.unknown():
        copy = module.operation.clone().operation
        _inline_calls(copy)
        if not any(each.name == "sdy.manual_computation" for each in all_operations(copy)):
            copy = _through_hlo(copy)
        main = main_of(copy)
        _capture_invariants(main.regions[0].blocks[0])
        _open_captures(main)
        return copy


# --- walking -----------------------------------------------------------------------------------------------


def operations(block: ir.Block) -> list[Any]:
    """The operations of a block, as a list that stays valid while the block changes."""
    return [each.operation for each in block.operations]


def main_of(module: Any) -> Any:
    """The function that the module runs."""
    return _functions(module)["main"]


def mesh_of(module: Any) -> str:
    """The name of the mesh that its shardings speak of; "" if nothing is split."""
    top = operations(module.regions[0].blocks[0])
    return next((_text(each.attributes["sym_name"]) for each in top if each.name == "sdy.mesh"), "")


def _functions(module: Any) -> dict[str, Any]:
    top = operations(module.regions[0].blocks[0])
    return {_text(each.attributes["sym_name"]): each for each in top if each.name == "func.func"}


def _blocks(operation: Any) -> Iterator[ir.Block]:
    for region in operation.regions:
        yield from region.blocks


def all_operations(operation: Any) -> Iterator[Any]:
    """The operations inside of an operation, those of its regions too."""
    for block in _blocks(operation):
        for each in operations(block):
            yield each
            yield from all_operations(each)


def _text(attribute: ir.Attribute) -> str:
    return ir.StringAttr(attribute).value


# --- calls -------------------------------------------------------------------------------------------------


def _inline_calls(module: Any) -> None:
    """Put the bodies of called functions in place of their calls, as XLA does before Shardy runs.

    Shardy would otherwise propagate function by function, and find other layouts. MLIR's own pass `inline`
    leaves calls to functions of jaxlib's modules as they are.
    """
    functions = _functions(module)
    _inline_into(functions["main"], functions, done=set())
    for name, function in functions.items():
        if name != "main":
            function.erase()


def _inline_into(function: Any, functions: dict[str, Any], done: set[str]) -> None:
    name = _text(function.attributes["sym_name"])
    if name in done:
        return
    done.add(name)
    for call in [each for each in all_operations(function) if each.name == "func.call"]:
        callee = functions[ir.FlatSymbolRefAttr(call.attributes["callee"]).value]
        _inline_into(callee, functions, done)
        _inline_call(call, callee.regions[0].blocks[0])


def _inline_call(call: Any, body: ir.Block) -> None:
    values: dict[Any, Any] = dict(zip(body.arguments, call.operands, strict=True))
    with ir.InsertionPoint(call):
        for each in operations(body):
            if each.name == "func.return":
                for result, value in zip(call.results, each.operands, strict=True):
                    result.replace_all_uses_with(values.get(value, value))
                continue
            new = each.clone().operation
            for inner in (new, *all_operations(new)):
                for place, value in enumerate(inner.operands):
                    if value in values:
                        inner.operands[place] = values[value]
            values.update(zip(each.results, new.results, strict=True))
    call.erase()


# --- HLO ---------------------------------------------------------------------------------------------------


def _through_hlo(module: Any) -> Any:
    """The module after StableHLO to HLO to StableHLO, with its shardings and calls put right again.

    A broadcast that only adds axes of size 1 is a reshape afterwards, and Shardy lets shardings pass through
    reshapes first. Where two operands want one mesh axis, that decides.
    """
    written = io.BytesIO()
    module.write_bytecode(written)
    options = {"use_tuple_args": False, "return_tuple": False}
    computation = _jax.mlir.mlir_module_to_xla_computation(written.getvalue(), **options)
    back = _jax.mlir.hlo_to_stablehlo(computation.as_serialized_hlo_module_proto())
    new = ir.Module.parse(back).operation.clone().operation
    _inline_calls(new)
    _flatten_tuples(new)
    _restore_shardings(new)
    return new


def _flatten_tuples(module: Any) -> None:
    """Let operations with several results have them one by one again; HLO has tuples."""
    for each in list(all_operations(main_of(module))):
        if len(each.results) != 1 or not isinstance(each.results[0].type, ir.TupleType):
            continue
        (whole,) = each.results
        types = [whole.type.get_type(place) for place in range(whole.type.num_types)]
        with ir.InsertionPoint(each):
            new = ir.Operation.create(
                each.name,
                results=types,
                operands=list(each.operands),
                attributes={name: each.attributes[name] for name in each.attributes},
                loc=each.location,
            )
        for part in [use.owner.operation for use in whole.uses]:
            place = ir.IntegerAttr(part.attributes["index"]).value
            part.results[0].replace_all_uses_with(new.results[place])
            part.erase()
        each.erase()


def _restore_shardings(module: Any) -> None:
    """Turn what stands for meshes and shardings in HLO, which is text in attributes, into Shardy's own."""
    meshes = _frontend_attribute(module.attributes, "xla.sdy.meshes")
    for name, axes in re.findall(r"(\w+) = #sdy\.mesh<(\[.*?\])>", meshes):
        mesh = ir.Operation.parse(f"sdy.mesh @{name} = <{axes}>")
        ir.InsertionPoint.at_block_begin(module.regions[0].blocks[0]).insert(mesh)
    main = main_of(module)
    block = main.regions[0].blocks[0]
    arguments = [ir.DictAttr(each) for each in main.attributes["arg_attrs"]]
    of_arguments = [_frontend_attribute(each, "xla.sdy.sharding") for each in arguments]
    main.attributes["arg_attrs"] = _sharding_attributes(of_arguments)
    end = operations(block)[-1]
    of_results = [""] * len(end.operands)
    for each in list(all_operations(main)):
        target = _text(each.attributes["call_target_name"]) if each.name == "stablehlo.custom_call" else ""
        if target not in ("xla.sdy.FuncResultSharding", "Sharding"):
            continue
        sharding = _only_sharding(_frontend_attribute(each.attributes, "xla.sdy.sharding"))
        value = each.operands[0]
        if target == "Sharding":
            value = _constrained(value, sharding, before=each, location=each.location)
        else:
            for place, result in enumerate(end.operands):
                of_results[place] = sharding if result == each.results[0] else of_results[place]
        each.results[0].replace_all_uses_with(value)
        each.erase()
    main.attributes["res_attrs"] = _sharding_attributes(of_results)


def _frontend_attribute(attributes: Any, key: str) -> str:
    if "mhlo.frontend_attributes" not in attributes:
        return ""
    found = ir.DictAttr(attributes["mhlo.frontend_attributes"])
    return _text(found[key]) if key in found else ""


def _sharding_attributes(shardings: list[str]) -> ir.ArrayAttr:
    parsed = [{"sdy.sharding": ir.Attribute.parse(each)} if each else {} for each in shardings]
    return ir.ArrayAttr.get([ir.DictAttr.get(each) for each in parsed])


def _only_sharding(per_value: str) -> str:
    """The sharding in a list of one."""
    found = re.search(r"per_value<\[(.*)\]>", per_value)
    assert found is not None, per_value
    return f"#sdy.sharding{found[1]}"


def _constrained(value: Any, sharding: str, before: Any, location: ir.Location | None = None) -> Any:
    with ir.InsertionPoint(before):
        constraint = ir.Operation.create(
            "sdy.sharding_constraint",
            results=[value.type],
            operands=[value],
            attributes={"sharding": ir.Attribute.parse(sharding)},
            loc=location,
        )
    return constraint.results[0]


# --- loops -------------------------------------------------------------------------------------------------


def _capture_invariants(block: ir.Block) -> None:
    """Let loops capture what they hand on unchanged, which is how XLA writes loops."""
    for each in operations(block):
        for inner in _blocks(each):
            _capture_invariants(inner)
        if each.name == "stablehlo.while":
            _without_invariants(each)


def _without_invariants(loop: Any) -> None:
    condition, body = (region.blocks[0] for region in loop.regions)
    end = operations(body)[-1]
    kept = [place for place, value in enumerate(end.operands) if value != body.arguments[place]]
    dropped = [place for place in range(len(loop.operands)) if place not in kept]
    if not dropped:
        return
    for place in dropped:
        for value in (body.arguments[place], condition.arguments[place], loop.results[place]):
            value.replace_all_uses_with(loop.operands[place])
    with ir.InsertionPoint(end):
        ir.Operation.create("stablehlo.return", operands=[end.operands[place] for place in kept])
    end.erase()
    for place in reversed(dropped):
        body.erase_argument(place)
        condition.erase_argument(place)
    with ir.InsertionPoint(loop):
        new = ir.Operation.create(
            "stablehlo.while",
            results=[loop.results[place].type for place in kept],
            operands=[loop.operands[place] for place in kept],
            regions=2,
            loc=loop.location,
        )
    condition.append_to(new.regions[0])
    body.append_to(new.regions[1])
    for place, result in zip(kept, new.results, strict=True):
        loop.results[place].replace_all_uses_with(result)
    loop.erase()


def _open_captures(main: Any) -> None:
    """Leave open how the arguments that a loop captures are laid out inside it, as XLA's import does."""
    block = main.regions[0].blocks[0]
    attributes = [ir.DictAttr(each) for each in main.attributes["arg_attrs"]]
    given = {
        argument: str(each["sdy.sharding"])
        for argument, each in zip(block.arguments, attributes, strict=True)
        if "sdy.sharding" in each
    }
    for loop in [each for each in operations(block) if each.name == "stablehlo.while"]:
        opened: dict[Any, Any] = {}
        for each in list(all_operations(loop)):
            for place, value in enumerate(each.operands):
                if value not in given:
                    continue
                if value not in opened:
                    opened[value] = _constrained(value, _open_sharding(value, given[value]), before=loop)
                each.operands[place] = opened[value]


def _open_sharding(value: Any, given: str) -> str:
    mesh = re.search(r"<(@\w+|mesh<.*?>)", given)
    assert mesh is not None, given
    dimensions = ", ".join(["{?}"] * ir.RankedTensorType(value.type).rank)
    return f"#sdy.sharding<{mesh[1]}, [{dimensions}]>"
