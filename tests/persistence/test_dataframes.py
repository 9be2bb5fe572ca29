"""Values of numpy and pandas come back from a checkpoint as they were, where these are installed."""

from typing import Any

import orjson
import pytest

from threadkeep.base import json
from threadkeep.persistence.encoding import NotKept
from threadkeep.persistence.serializer import Serializer

np = pytest.importorskip("numpy")

SERIALIZER = Serializer()
TYPES = [
    "int8",
    "uint64",
    "float16",
    "float64",
    "longdouble",
    "complex64",
    "bool",
    "U3",
    "S3",
    "M8[ms]",
    "m8[s]",
    ">i4",
]


def _again(value: Any) -> Any:
    return SERIALIZER.loads_typed(SERIALIZER.dumps_typed({"held": [value]}))["held"][0]


@pytest.mark.parametrize("name", TYPES)
def test_scalars_and_arrays_of_numpy(name: str) -> None:
    """Type, shape, order and values; an array may be written to."""
    for array in (
        np.arange(6).astype(name).reshape(2, 3),
        np.arange(6).astype(name).reshape(2, 3).T,
        np.zeros((0, 2), name),
    ):
        for kept in (array, array[:, ::-1], np.asfortranarray(array)):
            back = _again(kept)
            assert (type(back), back.dtype, back.shape) == (np.ndarray, kept.dtype, kept.shape)
            assert (back == kept).all()
            assert back.flags.writeable
            orjson.loads(json.dumps({"held": kept}))
    scalar = np.ones(1, name)[0]
    back = _again(scalar)
    assert (type(back), back.dtype) == (type(scalar), scalar.dtype)
    assert back == scalar
    orjson.loads(json.dumps({"held": scalar}))


def test_arrays_of_objects_and_structures() -> None:
    """Objects stay objects, and lists among them lists."""
    objects = np.empty((2, 2), dtype=object)
    objects[:] = [[1, "a"], [None, {"b": 2**70}]]
    back = _again(objects)
    assert back.dtype == object
    assert back.tolist() == objects.tolist()
    structures = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
    back = _again(structures)
    assert back.dtype == structures.dtype
    assert (back == structures).all()
    with pytest.raises(NotKept, match="MaskedArray"):
        _again(np.ma.array([1, 2], mask=[True, False]))


def test_numpy_values_are_shown_as_json() -> None:
    """Numbers and lists, not texts."""
    shown = {
        "array": np.arange(4).reshape(2, 2).T,
        "number": np.float64(1.5),
        "whole": np.int64(2),
        "true": np.bool_(True),
    }
    complex_, text = np.complex64(1 + 2j), np.str_("x")

    assert orjson.loads(json.dumps({**shown, "complex": complex_, "text": text})) == {
        "array": [[0, 2], [1, 3]], "number": 1.5, "whole": 2, "true": True, "complex": "(1+2j)", "text": "x",
    }  # fmt: skip


def _frames(pd: Any) -> list[Any]:
    columns = {
        "whole": [1, 2, 3], "real": [1.5, np.nan, 2.0], "text": ["a", None, "c"], "mixed": [1, "a", [1, 2]],
        "true": [True, False, True],
        "at": pd.to_datetime(["2026-01-01", None, "2026-01-03"]), "zoned": pd.date_range("2026-03-28", periods=3, tz="Europe/Rome"),
        "span": pd.to_timedelta([1, 2, 3], unit="h"), "kind": pd.Categorical(["x", "y", None], categories=["y", "x"], ordered=True),
        "nullable": pd.array([1, None, 3], dtype="Int64"), "maybe": pd.array([True, None, False], dtype="boolean"),
        "words": pd.array(["a", None, "c"], dtype="string"), "month": pd.period_range("2026-01", periods=3, freq="M"),
        "between": pd.interval_range(0, 3),
    }  # fmt: skip
    frame = pd.DataFrame(columns)
    by_two = frame.set_index(["whole", "text"])
    dated = frame.set_index(pd.date_range("2026-01-01", periods=3, freq="D", name="day"))
    return [
        frame,
        by_two,
        dated,
        frame[["real"]].T,
        frame.iloc[:0],
        pd.DataFrame(),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
    ]


def test_tables_columns_and_indexes_of_pandas() -> None:
    """Types of columns, index, names and order."""
    pd = pytest.importorskip("pandas")
    testing = pd.testing
    for frame in _frames(pd):
        testing.assert_frame_equal(_again(frame), frame, check_freq=True)
        testing.assert_index_equal(_again(frame.index), frame.index)
        for place in range(frame.shape[1]):
            testing.assert_series_equal(_again(frame.iloc[:, place]), frame.iloc[:, place])
        orjson.loads(json.dumps({"held": frame}))
    moments = [pd.Timestamp("2026-01-02 03:04:05.678901234"), pd.Timestamp("2026-07-01", tz="Europe/Rome"), pd.Timedelta("1D"),
               pd.Period("2026-01", freq="M"), pd.Interval(0, 1, closed="left")]  # fmt: skip
    for moment in moments:
        back = _again(moment)
        assert (type(back), back) == (type(moment), moment)
    assert _again(pd.NaT) is pd.NaT
    assert _again(pd.NA) is pd.NA
    assert list(_again(pd.Categorical(["a", "b"]))) == ["a", "b"]
    with pytest.raises(NotKept, match="Sparse"):
        _again(pd.Series(pd.arrays.SparseArray([0, 1])))


def test_pandas_values_are_shown_as_json() -> None:
    """A table by its columns, index and rows."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "at": pd.to_datetime(["2026-01-01", None])}, index=["x", "y"])

    assert orjson.loads(json.dumps({"frame": frame, "column": frame["a"], "moment": pd.Timestamp("2026-01-01")})) == {
        "frame": {"index": ["x", "y"], "columns": ["a", "at"], "data": [[1, "2026-01-01T00:00:00"], [2, None]]},
        "column": {"name": "a", "index": ["x", "y"], "data": [1, 2]},
        "moment": "2026-01-01T00:00:00",
    }
