"""The flag: true once, and waited for by several."""

import anyio

from threadkeep.base.flag import OneShotEvent


async def test_all_waiting_tasks_are_woken_and_later_ones_do_not_wait() -> None:
    """Ours."""
    flag, woken = OneShotEvent(), list[bool]()

    async def wait(within_s: float | None) -> None:
        woken.append(await flag.wait(within_s))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, None)
            tasks.start_soon(wait, 60)
            await anyio.wait_all_tasks_blocked()
            assert not woken
            flag.set()
        await wait(0)

    assert woken == [True, True, True]


async def test_a_wait_with_a_time_limit_reports_that_the_flag_is_not_set() -> None:
    """Ours: and leaves nothing behind, nor does one that is cancelled."""
    flag = OneShotEvent()
    with anyio.fail_after(5):
        assert await flag.wait(0.01) is False
        with anyio.move_on_after(0.01):
            await flag.wait()

    assert flag._waiting == []  # pyright: ignore[reportPrivateUsage]
    assert not flag.is_set()
