"""Files of labels that people own: read as they are written, and every row that is of no use is told."""

import pandas as pd
import pytest

from nbhelpers.errors import ConfigError
from nbhelpers.label_files import check_label_files, check_labelled_texts, read_human_labels, read_truth
from nbhelpers.run_folder import write_table

CHUNKS = pd.DataFrame({"chunk_id": ["c1", "c2", "c3"], "text": ["Rain, all day", "A goal\nin the end", "None"]})
OCCURRENCES = pd.DataFrame(
    {"chunk_id": ["c1", "c2", "c3", "c1"], "source": ["a.txt", "a.txt", "b.txt", "b.txt"], "position": [0, 1, 0, 1]}
)


CLASSES = ["weather", "sport", "None"]


@pytest.fixture
def read(tmp_path, run):
    write_table(run.chunks, CHUNKS)
    write_table(run.occurrences, OCCURRENCES)

    def read_text(text: str, encoding: str = "utf-8"):
        file = tmp_path / "human_labels.csv"
        file.write_text(text, encoding)
        return read_human_labels(file, classes=CLASSES, run=run)

    return read_text


@pytest.mark.parametrize(
    "text",
    [
        "chunk_id,label\nc1,weather\nc2,sport\nc3,None\n",
        'text,label\n"Rain, all day",weather\n"A goal\nin the  end ",sport\nNone,None\n',
        "label,position,source\nweather,0,a.txt\nsport,1,a.txt\nNone,0,b.txt\n",
        "chunk_id,text,label,note\nc1,other,weather,\nc2,,sport,x\n\nc3,,None,\n,,,\n",
        "chunk_id, label\nc1,weather,\nc2,sport,\nc3,None,\n",  # a space in the head, a comma at every end
        "Label,label,chunk_id\n,weather,c1\n,sport,c2\n,None,c3\n",
        "Source;Position;Label\na.txt;0.0;weather\na.txt;1.0;sport\nb.txt;0.0;None\n;;\n",
        "chunk_id\tlabel\tnote\nc1\tweather\tà voir\nc2\tsport\tdéjà vu\nc3\tNone\tça va\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_labels_are_read_by_id_by_text_and_by_place(read, text, encoding):
    table, problems = read(text, encoding)
    assert table.to_numpy().tolist() == [
        ["c1", "weather", "chosen"],
        ["c2", "sport", "chosen"],
        ["c3", "None", "chosen"],
    ]
    assert list(table.columns) == ["chunk_id", "label", "drawn"]
    assert problems == []


def test_how_texts_were_drawn_is_kept(read):
    table, problems = read("chunk_id,label,drawn\nc1,weather,Random\nc2,sport,\nc3,None,chosen\n")
    assert table["drawn"].tolist() == ["random", "chosen", "chosen"]
    assert problems == []


def test_every_row_that_is_not_used_is_told(read):
    rows = ["c1,weather,", "c2,,", "c9,sport,", "c2,rain,", "c3,sport,picked", "c8,sport,", "c2,sport,", "c1,weather,"]
    table, problems = read("\n".join(["chunk_id,label,drawn", *rows]))
    assert table.to_numpy().tolist() == [["c1", "weather", "chosen"], ["c2", "sport", "chosen"]]
    assert problems == [
        "row 3 left out, without a label.",
        "row 5 left out, the label is not one of the classes: 'rain'.",
        "row 6 left out, drawn is neither random nor chosen: 'picked'.",
        "rows 4 and 7 left out, no text has this chunk_id: 'c9', 'c8'.",
    ]


def test_two_different_labels_of_one_text_are_both_left_out(read):
    table, problems = read("source,position,label\na.txt,0,weather\nb.txt,1,sport\na.txt,1,sport\n")
    assert table["chunk_id"].tolist() == ["c2"]
    assert problems == ["rows 2 and 3 left out, two labels for one text: 'a.txt at 0', 'b.txt at 1'."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\n1,sport\n", "has the columns id, class. Give label"),
        ("source,label\na.txt,sport\n", "has the columns source, label"),
        ("chunk_id,label\nc9,sport\n", "no row of .* can be used. row 2 left out, no text has this chunk_id: 'c9'"),
        ("chunk_id,label\n", "no row of .* can be used. It is empty"),
        ("", "could not be read"),
        ('text,label\n"open,sport\n', "could not be read"),
    ],
)
def test_a_file_without_use_is_one_sentence(read, text, message):
    with pytest.raises(ConfigError, match=f"^path.human_labels: .*{message}"):
        read(text)


def test_a_missing_file_names_its_key(tmp_path, run):
    with pytest.raises(ConfigError, match=r"^path.human_labels: .*none.csv could not be read"):
        read_human_labels(tmp_path / "none.csv", classes=CLASSES, run=run)


# The truth


@pytest.fixture
def truth(tmp_path, run, make_config):
    write_table(run.occurrences, OCCURRENCES)

    def read_text(text: str, encoding: str = "utf-8"):
        file = tmp_path / "truth.csv"
        file.write_text(text, encoding)
        config = make_config(path={"truth": str(file)}, classification={"classes": CLASSES})
        check_labelled_texts(config, run)
        return read_truth(config)

    return read_text


@pytest.mark.parametrize(
    "text",
    [
        "source,position,label\na.txt,0,weather \n,,\n\na.txt,1,None\n",
        "Source; Position; Label\na.txt;0;weather\na.txt;1;None\n",
        "source,position,label\na.txt,0.0,weather\na.txt,1.0,None\nb.txt,,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_truth_is_read_as_spreadsheets_write_it(truth, text, encoding):
    assert truth(text, encoding).to_numpy().tolist() == [["a.txt", 0, "weather"], ["a.txt", 1, "None"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,position,label\na.txt,0,sports\na.txt,1,None\na,2,wether\n", "not classes: 'sports', 'wether'"),
        ("source,label\na.txt,sport\n", "has no column position: it has source, label"),
        ("file;row;class\na;0;sport\n", "has no column label, position, source: it has file, row, class"),
        ("source,position,label\na.txt,0,\na.txt,1,\n", "no row of .* has source, position and label"),
        ("source,position,label\nz.txt,0,sport\n", "no source and position in .* is one of the input texts"),
        ("source,position,label\na.txt,first,sport\n", "holds positions that are no numbers, such as 'first'"),
        ("", "could not be read .* Write a .csv: source, position, label"),
        ("source,position,label\na.txt,0,sport\na.txt,1,sport,more,fields\n", "could not be read"),
    ],
)
def test_a_faulty_truth_file_is_one_sentence(truth, text, message):
    with pytest.raises(ConfigError, match=f"^path.truth: .*{message}") as error:
        truth(text)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_sentence(make_config, tmp_path):
    for key in ("truth", "human_labels"):
        config = make_config(path={key: str(tmp_path / "none.csv")})
        with pytest.raises(ConfigError, match=rf"^path\.{key}: .*none\.csv could not be read"):
            check_label_files(config)


def test_texts_are_held_against_the_run_once_it_has_some(make_config, run, tmp_path):
    (tmp_path / "mine.csv").write_text("chunk_id,label\nc9,sports\n")
    config = make_config(path={"human_labels": str(tmp_path / "mine.csv")})
    check_labelled_texts(config, run)
    write_table(run.chunks, CHUNKS)
    write_table(run.occurrences, OCCURRENCES)
    with pytest.raises(ConfigError, match=r"^path\.human_labels: .*no text has this chunk_id: 'c9'"):
        check_labelled_texts(config, run)
