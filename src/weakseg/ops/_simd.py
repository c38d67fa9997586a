"""Short vectors of float32 inside numba functions.

LLVM's own vectoriser gives up on loops over two to sixteen channels behind an index. Here the vector is a type, so
that ``load``, ``a * b + c`` and ``store`` become single instructions on every processor that has them (and a few
narrower ones elsewhere). The number of lanes is the length of a tuple, which numba knows when it compiles::

    @njit
    def axpy(a, x, y, lanes):  # lanes = (0,) * 8
        store(y, 0, splat(a, lanes) * load(x, 0, lanes) + load(y, 0, lanes))

Products and sums may be fused; nothing is reordered except in `total`. Indices are counted in elements from the start
of a contiguous array and are not checked.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

_FUSE = ("contract",)
_REORDER = ("contract", "reassoc")
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
    vector = Vector(len(lanes))

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
def splat(typingctx: Any, scalar: Any, lanes: Any) -> Any:
    """The vector with `scalar` in every lane."""
    vector = Vector(len(lanes))

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


def _call(builder: Any, name: str, result: Any, args: Any, flags: tuple[str, ...] = ()) -> Any:
    function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(result, [a.type for a in args]))
    return builder.call(function, args, fastmath=flags)


@intrinsic
def total(typingctx: Any, vector: Any) -> Any:
    """Sum of the lanes, in whatever order is quickest (the same one every time)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f32"
        return _call(builder, name, _F32, [ir.Constant(_F32, 0.0), args[0]], _REORDER)

    return types.float32(vector), codegen


@intrinsic
def largest(typingctx: Any, vector: Any) -> Any:
    """Maximum of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fmax.v{vector.lanes}f32", _F32, [args[0]], ("nnan",))

    return types.float32(vector), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the larger value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return a(a, b), codegen


@intrinsic
def _round(typingctx: Any, vector: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.nearbyint.v{vector.lanes}f32", args[0].type, [args[0]])

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
    """e^x of a vector of numbers up to 0 (below -87 as -87), to about 1e-7 relative.

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
