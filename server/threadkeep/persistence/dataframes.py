"""Dataframes: encodes and decodes values of numpy and pandas. Neither library is imported before a value needs it.

A value is only encoded if decoding certainly returns an equal value. So arrays of subclasses, and tables with other
column types than the listed ones, are refused.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
)

RANGE: Final = "range"
NUMPY_TYPES: Final = "biufcmMSU"
"""The numpy kinds whose dtype is fully described by its name."""
WIDEST: Final = 8
"""The most bytes of a scalar that surely has a Python value."""
EXTENSION_TYPES: Final = ("Int", "UInt", "Float", "boolean", "string", "str", "period[", "interval[")
"""Name prefixes of pandas' extension types whose columns can be created again from objects."""


class Parts(NamedTuple):
    """The code and content of a msgpack extension."""

    code: int
    written: list[Any]


def parts_of(value: object) -> Parts | None:
    """The encoding of a value of numpy or pandas, else None. TypeError if decoding would change the value."""
    library = type(value).__module__.partition(".")[0]
    if library == "numpy":
        return _of_numpy(value)
    return _of_pandas(value) if library == "pandas" else None


def revived(library: str, name: str, payload: Any, further: Sequence[Any]) -> Any:
    """Decode a value. Raises any error of the library."""
    module: Any = importlib.import_module(library)
    if library == "numpy":
        return _array(module, further) if name == "array" else _scalar(module, further)
    return READERS[name](module, payload)


def is_known(library: str, name: str) -> bool:
    """Whether `revived` can create a value of this name. It creates no other values."""
    if library == "pandas":
        return name in READERS
    if library != "numpy":
        return False
    return name == "array" or isinstance(_scalar_type(name), type)


def array(written: Any) -> Any:
    """Create a writable array from `[type, shape, order, bytes]`."""
    numpy: Any = importlib.import_module("numpy")
    dtype, shape, order, content = written
    # `frombuffer` shares the bytes, which can't be written.
    return numpy.frombuffer(content, dtype=numpy.dtype(dtype)).reshape(shape, order=order).copy(order=order)


def _scalar_type(name: str) -> Any:
    numpy: Any = importlib.import_module("numpy")
    kind = getattr(numpy, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, numpy.generic) else None


def _of_numpy(value: Any) -> Parts | None:
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.generic):
        plain = value.item() if value.dtype.kind in "biufcSU" and value.dtype.itemsize <= WIDEST else str(value)
        # These three are for LangGraph's decoder. Ours uses the dtype and the bytes, which lose no precision.
        place = ["numpy", type(value).__name__, plain]
        return Parts(EXT_CONSTRUCTOR_SINGLE_ARG, [*place, _described(value.dtype), value.tobytes()])
    if not isinstance(value, numpy.ndarray):
        return None
    if type(value) not in {numpy.ndarray, numpy.memmap}:
        raise TypeError(f"an array of type {type(value).__module__}.{type(value).__qualname__} can't be stored")
    # An array with one dimension has both flags.
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if value.dtype.kind in NUMPY_TYPES:
        return Parts(EXT_NUMPY_ARRAY, [value.dtype.str, list(value.shape), order, value.tobytes(order)])
    shape, described = list(value.shape), _described(value.dtype)
    content = value.ravel().tolist() if value.dtype.hasobject else value.tobytes(order)
    # LangGraph's decoder reads only `value.tolist()`, and ours the parts after it.
    return Parts(EXT_CONSTRUCTOR_SINGLE_ARG, ["numpy", "array", value.tolist(), described, content, shape, order])


def _described(dtype: Any) -> Any:
    """The name or the fields of a dtype, in the form of `numpy.save`."""
    if dtype.hasobject and dtype.kind != "O":
        raise TypeError("an array of structures that contain objects can't be stored")
    return importlib.import_module("numpy.lib.format").dtype_to_descr(dtype)


def _dtype(described: Any) -> Any:
    return importlib.import_module("numpy.lib.format").descr_to_dtype(described)


def _scalar(numpy: Any, further: Sequence[Any]) -> Any:
    described, content = further
    return numpy.frombuffer(content, dtype=_dtype(described))[0]


def _array(numpy: Any, further: Sequence[Any]) -> Any:
    described, content, shape, order = further
    if isinstance(content, bytes):
        return numpy.frombuffer(content, dtype=_dtype(described)).reshape(shape, order=order).copy(order=order)
    elements = numpy.empty(len(content), dtype=object)
    for place, part in enumerate(content):  # numpy would turn lists into dimensions
        elements[place] = part
    return elements.reshape(shape)


def _of_pandas(value: Any) -> Parts | None:
    pandas: Any = sys.modules["pandas"]
    if value is pandas.NaT or isinstance(value, (pandas.Timestamp, pandas.Timedelta)):
        return _named("Timedelta" if isinstance(value, pandas.Timedelta) else "Timestamp", _moment(value))
    if value is pandas.NA:
        return _named("NA", None)
    if isinstance(value, pandas.Period):
        return _named("Period", {"ordinal": value.ordinal, "freq": value.freqstr})
    if isinstance(value, pandas.Interval):
        return _named("Interval", {"left": value.left, "right": value.right, "closed": value.closed})
    if type(value) is pandas.Series:
        return _named("Series", {**_column(value), "index": _index(value.index), "name": value.name})
    if type(value) is pandas.DataFrame:
        columns = [_column(value.iloc[:, place]) for place in range(value.shape[1])]
        return _named("DataFrame", {"data": columns, "index": _index(value.index), "columns": _index(value.columns)})
    if isinstance(value, pandas.Index):
        return _named("Index", _index(value))
    if type(value) is pandas.Categorical:
        return _named("Categorical", _column(pandas.Series(value)))
    return None


def _named(name: str, payload: object) -> Parts:
    return Parts(EXT_CONSTRUCTOR_KW_ARGS, ["pandas", name, payload])


def _moment(value: Any) -> dict[str, Any]:
    zone = getattr(value, "tzinfo", None)
    if str(value) == "NaT":
        return {"value": None, "unit": "ns", "zone": None}
    return {"value": int(value.asm8.astype("int64")), "unit": value.unit, "zone": None if zone is None else str(zone)}


def _column(column: Any) -> dict[str, Any]:
    """The values and the type of a column."""
    dtype = column.dtype
    name = str(dtype)
    if name == "category":
        codes, categories = column.cat.codes.to_numpy(), _index(column.cat.categories)
        return {"dtype": name, "codes": codes, "categories": categories, "ordered": bool(column.cat.ordered)}
    if type(dtype).__module__.partition(".")[0] == "numpy":
        return {"dtype": name, "values": column.to_numpy()}
    if getattr(dtype, "tz", None) is not None:
        # numpy has no time zones, so the column is stored in UTC. The dtype names its zone.
        return {"dtype": name, "values": column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()}
    if not name.startswith(EXTENSION_TYPES) or "pyarrow]" in name:
        raise TypeError(f"a column of pandas' type {name[:100]} can't be stored")
    values = [None if missing else part for part, missing in zip(column.astype(object), column.isna(), strict=True)]
    return {"dtype": name, "values": values}


def _index(index: Any) -> dict[str, Any]:
    pandas: Any = sys.modules["pandas"]
    names = list(index.names)
    if type(index) is pandas.RangeIndex:
        return {"dtype": RANGE, "values": [index.start, index.stop, index.step], "names": names}
    if isinstance(index, pandas.MultiIndex):
        levels = [_index(level) for level in index.levels]
        return {
            "dtype": "levels",
            "values": levels,
            "codes": [list(map(int, code)) for code in index.codes],
            "names": names,
        }
    return {
        **_column(index.to_series(index=range(len(index)))),
        "names": names,
        "freq": getattr(index, "freqstr", None),
    }


def _made_column(pandas: Any, written: Mapping[str, Any]) -> Any:
    """The values of a column as an array of pandas or numpy."""
    name, values = written["dtype"], written.get("values")
    if name == "category":
        categories = _made_index(pandas, written["categories"])
        return pandas.Categorical.from_codes(written["codes"], categories=categories, ordered=written["ordered"])
    if isinstance(values, list):
        return pandas.Series(values, dtype=name).array
    if name.startswith("datetime64[") and "," in name:
        return pandas.Series(values).dt.tz_localize("UTC").astype(name).array
    return values


def _made_index(pandas: Any, written: Mapping[str, Any]) -> Any:
    kind, names = written["dtype"], written["names"]
    if kind == RANGE:
        return pandas.RangeIndex(*written["values"], name=names[0])
    if kind == "levels":
        levels = [_made_index(pandas, level) for level in written["values"]]
        return pandas.MultiIndex(levels=levels, codes=written["codes"], names=names)
    # The frequency of a period index is a part of its dtype.
    index = pandas.Index(_made_column(pandas, written), name=names[0])
    return index if not written.get("freq") or kind.startswith("period[") else type(index)(index, freq=written["freq"])


def _made_frame(pandas: Any, written: Mapping[str, Any]) -> Any:
    index = _made_index(pandas, written["index"])
    # By position first, because names of columns may be equal.
    columns = {place: _made_column(pandas, column) for place, column in enumerate(written["data"])}
    frame = pandas.DataFrame(columns, index=index)
    frame.columns = _made_index(pandas, written["columns"])
    return frame


def _made_series(pandas: Any, written: Mapping[str, Any]) -> Any:
    index = _made_index(pandas, written["index"])
    return pandas.Series(_made_column(pandas, written), index=index, name=written["name"])


def _made_moment(kind: str) -> Callable[[Any, Any], Any]:
    def make(pandas: Any, written: Mapping[str, Any]) -> Any:
        if written["value"] is None:
            return pandas.NaT
        # pandas may choose another unit for the object, so it is converted back.
        moment = getattr(pandas, kind)(written["value"], unit=written["unit"]).as_unit(written["unit"])
        return moment if written["zone"] is None else moment.tz_localize("UTC").tz_convert(written["zone"])

    return make


READERS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "NA": lambda pandas, _: pandas.NA,
    "Timestamp": _made_moment("Timestamp"),
    "Timedelta": _made_moment("Timedelta"),
    "Period": lambda pandas, written: pandas.Period(**written),
    "Interval": lambda pandas, written: pandas.Interval(**written),
    "Series": _made_series,
    "DataFrame": _made_frame,
    "Index": _made_index,
    "Categorical": _made_column,
}
"""The decoders by the type name in a row."""
