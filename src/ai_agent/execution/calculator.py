"""Arithmetic on expressions: a grammar of our own over Python's syntax tree. Nothing is ever evaluated as code."""

import ast
import math
import operator
from collections.abc import Callable

LONGEST = 1000
DEEPEST = 50
MOST_DIGITS = 1000

Number = int | float

_BITS = int(MOST_DIGITS * math.log2(10))


class Incalculable(ValueError):
    """Says what is wrong with an expression, for whoever wrote it."""


def calculate(expression: str) -> Number:
    """The value of an expression: numbers, + - * / // % **, parentheses, functions and constants.

    Raises Incalculable, also for what would take long: results have at most 1,000 digits.
    """
    if len(expression) > LONGEST:
        raise Incalculable(f"The expression is longer than {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _bounded(_value(tree.body, 0))
    except (SyntaxError, RecursionError, MemoryError):
        raise Incalculable("This is no arithmetic expression") from None
    except ZeroDivisionError:
        raise Incalculable("Division by zero") from None
    except OverflowError:
        raise Incalculable("The result is too large") from None
    except (ValueError, TypeError) as error:
        raise Incalculable(str(error)) from None


def _value(node: ast.expr, level: int) -> Number:
    if level > DEEPEST:
        raise Incalculable(f"The expression is nested deeper than {DEEPEST} levels")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _value(operand, level + 1)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left, level + 1), _value(right, level + 1)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(argument, level + 1) for argument in arguments]))
    raise Incalculable(f"Not allowed in an expression: {ast.unparse(node)[:100]}")


def _bounded(value: Number) -> Number:
    if isinstance(value, complex):
        raise Incalculable("The result is no real number")
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise Incalculable(f"The result has more than {MOST_DIGITS} digits")
    if isinstance(value, float) and not math.isfinite(value):
        raise Incalculable("The result is no finite number")
    return value


def _power(base: Number, exponent: Number) -> Number:
    # Looked at before it is computed: 9**9**9 would never end.
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        if exponent > 0 and base.bit_length() * exponent > 2 * _BITS:
            raise Incalculable(f"The result has more than {MOST_DIGITS} digits")
        if exponent < 0:
            return float(base) ** exponent
    result: Number = base**exponent
    return result


def _factorial(value: Number) -> Number:
    if not isinstance(value, int) or not 0 <= value <= 400:
        raise Incalculable("factorial takes a whole number from 0 to 400")
    return math.factorial(value)


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > MOST_DIGITS:
        raise Incalculable("round takes a whole number of digits")
    return round(value, digits) if digits else round(value)


_CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}

_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "factorial": _factorial,
}
