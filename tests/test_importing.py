"""Other systems' tables are read by name, and errors say what to mend."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlab.errors import InvalidTable, MissingFile
from mixlab.importing import FORMATS, import_files
from mixlab.runs import Observations
from mixlab.tables import TableReport

RATIOS = "run,name,dclm,wiki,arxiv\na,x,.5,.3,.2\nb,y,.6,.2,.2\nc,z,.334,.333,.331\n"
METRICS = "run_id,mmlu_bpb,arxiv\nc,1.3,2.3\na,1.1,2.1\nb,1.2,\n"
MIXED = "index,train_the_pile_arxiv,train_the_pile_github\n1,.25,.75\n2,0,1\n"
LOSSES = (
    "index,metric/the_pile_github_val_loss,metric/the_pile_arxiv_val_loss\n2,2.2,4.2\n1,2.1,4.1\n"
)
SCALEFIT = (
    "weight_book,weight_c4,model_size,n_tokens,c4_loss,other_loss\n"
    ".4,.6,122000000.0,2e9,3.5,3.1\n.4,.6,122000000.0,4e9,3.2,\n.4,.6,3.1e8,4e9,3.0,2.9\n"
)


def read(
    tmp_path: Path, name: str, *texts: str, report: TableReport | None = None, **given: float
) -> Observations:
    paths = [tmp_path / f"{file}.csv" for file, _ in zip(FORMATS[name].files, texts, strict=True)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return import_files(name, paths, report=report, **given)


def test_olmix_is_joined_by_the_run_and_rounded_ratios_are_normalised(tmp_path: Path) -> None:
    report = TableReport()
    found = read(tmp_path, "olmix", RATIOS, METRICS, report=report)
    assert found.runs == ("a", "b", "c")
    assert found.domains == ("dclm", "wiki", "arxiv")
    assert found.targets == ("mmlu_bpb", "arxiv")
    np.testing.assert_array_equal(found.losses_nats, [[1.1, 2.1], [1.2, np.nan], [1.3, 2.3]])
    np.testing.assert_allclose(found.proportions[2], np.array([0.334, 0.333, 0.331]) / 0.998)
    assert (report.normalised_rows, report.blank_losses, report.one_step) == (1, 1, True)
    assert any("bits per byte" in note for note in report.notes())


def test_regmix_is_joined_by_the_index_and_domains_by_name(tmp_path: Path) -> None:
    found = read(tmp_path, "regmix", MIXED, LOSSES, tokens=1e9, params=1e6)
    assert (found.domains, found.targets) == (("arxiv", "github"), ("github", "arxiv"))
    np.testing.assert_array_equal(found.losses_nats, [[2.1, 4.1], [2.2, 4.2]])
    np.testing.assert_array_equal(found.steps, [1e9, 1e9])
    np.testing.assert_array_equal(found.params, [1e6, 1e6])


def test_checkpoints_of_one_mixture_and_size_are_one_run(tmp_path: Path) -> None:
    found = read(tmp_path, "scalefit", SCALEFIT)
    assert found.runs == ("run 1", "run 1", "run 2")
    np.testing.assert_array_equal(found.params, [122e6, 122e6, 310e6])
    np.testing.assert_array_equal(found.tokens, [2e9, 4e9, 4e9])
    assert found.targets == ("c4", "other")
    assert np.isnan(found.losses_nats[1, 1])


def test_sldbench_tells_sizes_in_words(tmp_path: Path) -> None:
    columns = {
        "group": ["70M", "1.5B"],
        "proportion_domain_1": [0.0, 0.5],
        "proportion_domain_2": [1.0, 0.5],
        "loss_domain_1": [3.5, 2.5],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = import_files("sldbench", [tmp_path / "t.parquet"])
    np.testing.assert_array_equal(found.params, [70e6, 1.5e9])
    assert (found.domains, found.targets) == (("domain_1", "domain_2"), ("domain_1",))


BAD: list[tuple[str, tuple[str, ...], str]] = [
    ("olmix", (RATIOS.replace("run,", "id,"), METRICS), r"ratios\.csv has no column 'run' or"),
    ("olmix", (RATIOS + "a,w,.5,.3,.2\n", METRICS), r"names run 'a' twice, in rows 1 and 4"),
    ("olmix", (RATIOS, METRICS + "b,1,1\n"), r"metrics\.csv names run 'b' twice, in rows 3 and 4"),
    ("olmix", (RATIOS + "d,w,.5,.3,.2\n", METRICS), r"1 runs of ratios\.csv are not in .*'d'"),
    ("olmix", (RATIOS, METRICS + "e,1,1\n"), r"1 runs of metrics\.csv are not in .*'e'"),
    ("olmix", (RATIOS, METRICS + ",1,1\n"), r"'run_id', row 4: the run has no name"),
    ("olmix", (RATIOS.replace(".334", ".9"), METRICS), r"run 'c'.*sum to 1.5"),
    ("regmix", (MIXED.replace("train_the_pile_github", "github"), LOSSES), r"column 'github' is"),
    ("regmix", (LOSSES, MIXED), r"mixtures\.csv: column 'metric/.*the right file"),
    ("regmix", (MIXED.replace("the_pile_github", "arxiv"), LOSSES), r"two columns .* 'arxiv'"),
    ("regmix", ("index\n1\n", LOSSES), r"none of the columns of regmix"),
    ("scalefit", (SCALEFIT.replace("model_size", "size"),), r"column 'size' is none"),
    ("scalefit", (SCALEFIT.replace(",model_size", "").replace(",122000000.0", "").replace(",3.1e8", ""),), r"no column 'model_size'"),  # noqa: E501
    ("scalefit", (SCALEFIT.replace("3.1e8", "big"),), r"'model_size', row 3: 'big' is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "texts", "message"), BAD)
def test_a_table_that_is_not_the_formats_says_what_to_mend(
    name: str, texts: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidTable, match=message):
        read(tmp_path, name, *texts)


def test_bad_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidTable, match="there are olmix, regmix, scalefit, sldbench"):
        import_files("csv", [])
    with pytest.raises(InvalidTable, match=r"2 file.s., ratios and metrics; 1 were given"):
        import_files("olmix", ["x.csv"])
    with pytest.raises(MissingFile):
        import_files("scalefit", [tmp_path / "none.csv"])
    with pytest.raises(InvalidTable, match="don't give tokens beside it"):
        read(tmp_path, "scalefit", SCALEFIT, tokens=1e9)
