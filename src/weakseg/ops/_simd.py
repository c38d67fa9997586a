"""Short vectors of float32 inside numba functions.

LLVM's own vectoriser gives up on loops over two to sixteen channels behind an index. Here the vector is a type, so
that ``load``, ``a * b + c`` and ``store`` become single instructions on every processor that has them (and a few
narrower ones elsewhere). The number of lanes is the length of a tuple, which numba knows when it compiles::

    @njit
    def axpy(a, x, y, lanes):  # lanes = (0,) * 8
        store(y, 0, splat(a, lanes) * load(x, 0, lanes) + load(y, 0, lanes))

A tuple without elements makes a vector of one lane; ``if len(lanes) > 0`` around its loads and stores then leaves no
trace in the machine code. Products and sums may be fused, nothing else is reordered. Indices are counted in elements
from the start of a contiguous array and are not checked.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

intrinsic: Any = _intrinsic  # what it makes is called with one argument fewer than its source declares
SPARE = 16
"""Elements behind the end of an array that whole vectors may be read from and written to."""
_FUSE = ("contract",)
_F32 = ir.FloatType()
_I32 = ir.IntType(32)


class Vector(types.Type):
    """numba's type of `lanes` float32 values."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")

    @property
    def key(self) -> int:
        """What makes two of these types equal."""
        return self.lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_F32, fe_type.lanes))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(typingctx: Any, array: Any, index: Any, lanes: Any) -> Any:
    """The vector that starts at element `index` of a contiguous float32 array."""
    vector = Vector(max(1, len(lanes)))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _address(context, builder, signature.args[0], args[0], args[1])
        kind = context.get_value_type(vector)
        value = builder.load(builder.bitcast(where, kind.as_pointer()), typ=kind)
        value.align = 4
        return value

    return vector(array, types.intp, lanes), codegen


@intrinsic
def store(typingctx: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write `vector` from element `index` of a contiguous float32 array on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(where, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Fetch the cache line of element `index`, which may lie anywhere: a hint, never a fault."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _address(context, builder, signature.args[0], args[0], args[1])
        where = builder.bitcast(where, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [where.type, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [where.type], fnty=kind)
        builder.call(function, [where, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def splat(typingctx: Any, scalar: Any, lanes: Any) -> Any:
    """The vector with `scalar` in every lane."""
    vector = Vector(max(1, len(lanes)))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        single = builder.insert_element(ir.Constant(kind, ir.Undefined), args[0], ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, vector.lanes), [0] * vector.lanes)
        return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), zeros)

    return vector(types.float32, lanes), codegen


@intrinsic
def put(typingctx: Any, vector: Any, lane: Any, scalar: Any) -> Any:
    """`vector` with `scalar` in one lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[2], builder.trunc(args[1], _I32))

    return vector(vector, types.intp, types.float32), codegen


@intrinsic
def get(typingctx: Any, vector: Any, lane: Any) -> Any:
    """One lane of `vector`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], _I32))

    return types.float32(vector, types.intp), codegen


@intrinsic
def group_sum(typingctx: Any, vector: Any, group: Any) -> Any:
    """Sums over groups of len(group) neighbouring lanes, a power of two; every lane gets its group's."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _butterfly(builder, args[0], len(group), lambda a, b: builder.fadd(a, b))

    return vector(vector, group), codegen


@intrinsic
def group_maximum(typingctx: Any, vector: Any, group: Any) -> Any:
    """Maxima over groups of len(group) neighbouring lanes, a power of two; every lane gets its group's."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _butterfly(
            builder, args[0], len(group), lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b)
        )

    return vector(vector, group), codegen


@intrinsic
def exceeds(typingctx: Any, vector: Any, bound: Any) -> Any:
    """Whether any lane is above `bound`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bounds = ir.Constant(args[0].type, ir.Undefined)
        for lane in range(vector.lanes):
            bounds = builder.insert_element(bounds, args[1], ir.Constant(_I32, lane))
        above = builder.fcmp_unordered(">", args[0], bounds)
        kind = ir.FunctionType(ir.IntType(1), [above.type])
        name = f"llvm.vector.reduce.or.v{vector.lanes}i1"
        return builder.call(builder.module.declare_intrinsic(name, fnty=kind), [above])

    return types.boolean(vector, types.float32), codegen


def _butterfly(builder: Any, value: Any, group: int, combine: Any) -> Any:
    """Combine each lane with the one whose number differs in the lowest bit, then in the next, and so on."""
    lanes = value.type.count
    step = 1
    while step < group:
        partner = ir.Constant(ir.VectorType(_I32, lanes), [lane ^ step for lane in range(lanes)])
        value = combine(value, builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), partner))
        step *= 2
    return value


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the larger value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return a(a, b), codegen


@intrinsic
def _round(typingctx: Any, vector: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = f"llvm.nearbyint.v{vector.lanes}f32"
        return builder.call(builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind])), args)

    return vector(vector), codegen


@intrinsic
def _power_of_two(typingctx: Any, vector: Any) -> Any:
    """2 to the whole numbers in `vector`, -126..127, by writing them into the exponent."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.VectorType(_I32, vector.lanes)
        biased = builder.add(builder.fptosi(args[0], whole), ir.Constant(whole, [127] * vector.lanes))
        return builder.bitcast(builder.shl(biased, ir.Constant(whole, [23] * vector.lanes)), args[0].type)

    return vector(vector), codegen


def _lanewise(symbol: Any, instruction: str) -> None:
    """Let `symbol` (an operator) act on two vectors."""

    @intrinsic
    def act(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(args[0], args[1], flags=_FUSE)

        return a(a, b), codegen

    def implementation(a, b):  # type: ignore[no-untyped-def]  # numba wants the lambda's very signature
        if isinstance(a, Vector) and a == b:
            return lambda a, b: act(a, b)
        return None

    overload(symbol, inline="always")(implementation)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _lanewise(_symbol, _instruction)

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # 9 bits: its product with a whole number is exact
_LN2_LOW = np.float32(0.6931471805599453 - 0.693359375)
_LOWEST = np.float32(-87.0)  # e^-87 is the last normal float32
_TAYLOR = tuple(np.float32(1 / f) for f in (5040, 720, 120, 24, 6, 2, 1, 1))


@njit(cache=True, nogil=True)
def exp(x, lanes):  # type: ignore[no-untyped-def]
    """e^x of a vector of numbers up to 88 (below -87 as -87), to about 1e-7 relative.

    x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor polynomial of degree 7 leaves 5e-9 of e^r.
    """
    x = maximum(x, splat(_LOWEST, lanes))
    n = _round(x * splat(_LOG2_E, lanes))
    r = x - n * splat(_LN2_HIGH, lanes) - n * splat(_LN2_LOW, lanes)
    e = splat(_TAYLOR[0], lanes)
    e = e * r + splat(_TAYLOR[1], lanes)
    e = e * r + splat(_TAYLOR[2], lanes)
    e = e * r + splat(_TAYLOR[3], lanes)
    e = e * r + splat(_TAYLOR[4], lanes)
    e = e * r + splat(_TAYLOR[5], lanes)
    e = e * r + splat(_TAYLOR[6], lanes)
    e = e * r + splat(_TAYLOR[7], lanes)
    return e * _power_of_two(n)
