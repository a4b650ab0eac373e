"""What the benchmarks say of their figures."""

import json

import pytest

from benchmarks.answers import DONE, NEVER, Answers, video
from benchmarks.figures import Line, Spread, document, number, ratios, row, spread, table
from happyhorse_async._formats import mp4
from happyhorse_async._models import TaskStatus
from happyhorse_async._rules import wire

LOOPBACK = "http://127.0.0.1:1"


def line(median: float, low: float, high: float, bound: float | None = 1.2, **more: object) -> Line:
    """Make a line of the table."""
    return Line(what="submit", value=Spread(median, low, high), bound=bound, **more)


class TestSpread:
    def test_it_is_the_median_and_the_middle_half(self):
        """A single outlier moves neither."""
        assert spread([3.0, 1.0, 2.0, 4.0, 100.0]) == Spread(median=3.0, low=2.0, high=4.0)

    def test_one_figure_has_no_spread(self):
        """A single run can be shown, too."""
        assert spread([2.0]).share == 0.0

    def test_rounds_are_compared_one_by_one(self):
        """A round that was slow for both says the same as a quiet one."""
        assert ratios([1.1, 11.0], [1.0, 10.0]) == pytest.approx([1.1, 1.1])


class TestVerdict:
    def test_a_bound_that_is_kept_holds(self):
        """Nothing is added to the word when nothing is in doubt."""
        assert line(1.1, 1.09, 1.11).verdict == "holds"

    def test_a_bound_that_is_missed_is_said_in_bold(self):
        """A reader must not overlook it."""
        assert line(1.3, 1.29, 1.31).verdict == "**missed**"
        assert line(1.3, 1.29, 1.31).missed

    def test_a_wide_spread_across_the_bound_is_not_believed(self):
        """Rounds that contradict one another prove nothing."""
        assert line(1.1, 0.9, 1.4).verdict == "holds; too noisy to believe"

    def test_a_wide_spread_on_one_side_of_the_bound_is(self):
        """However they differ, they agree about the bound."""
        assert line(0.5, 0.3, 0.6).verdict == "holds"

    def test_a_line_for_scale_says_nothing(self):
        """Peers have no bound."""
        assert line(14.0, 13.9, 14.1, bound=None).verdict == ""

    def test_a_busy_server_is_said(self):
        """Then the server was measured, not the client."""
        assert "bottleneck" in line(1.1, 1.1, 1.1, busy=0.95).verdict


class TestPage:
    def test_the_table_has_a_row_for_each_line(self):
        """Two lines of head, then one each."""
        assert len(table([line(1, 1, 1), line(2, 2, 2)]).splitlines()) == 4

    def test_a_bar_in_a_text_does_not_break_the_row(self):
        """It is escaped."""
        assert "a \\| b" in row(line(1, 1, 1, against="a | b"))

    @pytest.mark.parametrize(
        ("value", "text"),
        [(12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.0123, "0.012")],
    )
    def test_figures_have_the_digits_that_they_are_worth(self, value, text):
        """Three, about."""
        assert number(value) == text

    def test_the_page_names_machine_and_notes(self):
        """The figures are worth nothing without them."""
        page = document({"machine": "two cores"}, [line(1, 1, 1)], ["A quick run."])
        assert "- machine: two cores" in page
        assert page.endswith("A quick run.\n")

    def test_a_line_is_plain_data_too(self):
        """It goes into the JSON file as it is."""
        assert json.loads(json.dumps(line(1.3, 1.3, 1.3).as_dict()))["missed"] is True


class TestAnswers:
    def test_a_done_task_has_a_video_that_the_package_takes(self):
        """The loopback server's answers are the service's, as the package reads them."""
        answers = Answers(LOOPBACK, life=0.0)
        kind, body = answers.answer(b"GET", f"/v1/tasks/{DONE}7".encode(), b"")
        task = wire.task_of(json.loads(body))
        assert kind == b"application/json"
        assert task is not None
        assert (task.id, task.status, len(task.results)) == (f"{DONE}7", TaskStatus.COMPLETED, 1)

    def test_a_task_that_is_never_done_is_processing(self):
        """Its id says so."""
        body = Answers(LOOPBACK, life=0.0).answer(b"GET", f"/v1/tasks/{NEVER}7".encode(), b"")[1]
        assert json.loads(body)["status"] == "processing"

    def test_the_age_of_a_task_is_told_as_it_is(self):
        """When to read a task is planned from its age and its progress: a server that lies about
        them measures something else.
        """
        now = 1_800_000_000.0
        answers = Answers(LOOPBACK, life=100.0, clock=lambda: now)
        begun = json.loads(answers.answer(b"POST", b"/v1/videos/generations", b"{}")[1])
        assert (begun["created"], begun["progress"]) == (now, 0)
        now += 30
        later = json.loads(answers.answer(b"GET", f"/v1/tasks/{begun['id']}".encode(), b"")[1])
        assert (later["created"], later["status"], later["progress"]) == (
            begun["created"],
            "processing",
            30,
        )

    def test_a_batch_has_every_task(self):
        """In the order asked for."""
        ids = [f"{DONE}1", f"{NEVER}2"]
        body = Answers(LOOPBACK, life=0.0).answer(
            b"POST", b"/v1/tasks/batch", json.dumps({"task_ids": ids}).encode()
        )[1]
        assert [task["id"] for task in json.loads(body)["data"]] == ids

    def test_the_video_is_a_video(self):
        """It passes the structure check of a download."""
        assert mp4.begins_like_video(video())
        assert video(32_768)[4:8] == b"ftyp"
        assert len(video(32_768)) == 32_768
