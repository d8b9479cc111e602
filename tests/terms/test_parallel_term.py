"""A text tower learns other languages from an English one; the photos stay where they are."""

import copy

import pytest
import torch

from helpers.tiny_models import narrow_two_tower, pixels, two_tower
from modiste.errors import ModisteError
from modiste.models.finetune import Tuning
from modiste.terms.parallel import Parallel, read_pairs
from modiste.terms.teacher import Teacher

ENGLISH = ["a red dress", "blue jeans", "green shoe", "black bag", "white shirt", "a plain coat"]
GERMAN = ["ein rotes Kleid", "blaue Jeans", "grüner Schuh", "schwarze Tasche", "weißes Hemd", "ein schlichter Mantel"]
FRENCH = ["une robe rouge", "", "chaussure verte", "", "", ""]


@pytest.fixture
def table(tmp_path):
    rows = ["en,de,fr", *(",".join(row) for row in zip(ENGLISH, GERMAN, FRENCH, strict=True))]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    return tmp_path / "captions.csv"


def student_of(teacher):
    """The same architecture with other weights, its image tower frozen."""
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.std())
    Tuning("frozen").apply(student, "image")
    return student


def begun(table, student, teacher, **options):
    term = Parallel(teacher="runs/english", table=str(table), **options)
    term.bind(student, Teacher(teacher, same_inputs=False))
    return term


def called(term, student):
    zero = torch.zeros(2, student.embed_dim)
    return term(zero, zero, {"pixels": pixels(2)}, torch.tensor(1.0))


def test_the_value_is_equation_1_of_the_paper(table):
    teacher = two_tower().eval()
    student = student_of(teacher).eval()
    term = begun(table, student, teacher, batch_size=5, languages=["de"])
    torch.manual_seed(3)
    value = called(term, student)
    torch.manual_seed(3)
    rows = torch.randint(len(ENGLISH), (5,)).tolist()
    slow = 0.0
    for row in rows:
        wanted = teacher.encode_text(teacher.tokenizer([ENGLISH[row]]))[0]
        for sentence in (ENGLISH[row], GERMAN[row]):
            given = student.encode_text(student.tokenizer([sentence]))[0]
            slow += sum(float(a - b) ** 2 for a, b in zip(wanted, given, strict=True)) / len(rows)
    assert value.item() == pytest.approx(slow, rel=1e-4)


def test_translations_come_to_their_captions_and_photos_stay(table):
    torch.manual_seed(0)
    teacher = two_tower().eval()
    photos = teacher.encode_image(pixels())
    student = student_of(teacher).train()
    term = begun(table, student, teacher, batch_size=16)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        called(term, student).backward()
        optimizer.step()
    student.eval()
    wanted = teacher.encode_text(teacher.tokenizer(ENGLISH))
    for sentences in (ENGLISH, GERMAN):
        found = student.encode_text(student.tokenizer(sentences))
        assert (found * wanted).sum(1).min() > 0.95
        assert (found @ wanted.T).argmax(1).tolist() == list(range(len(ENGLISH)))
    assert torch.equal(student.encode_image(pixels()), photos)


def test_pairs_are_of_cells_that_both_have_words(table):
    assert len(read_pairs(table, "en", None)) == len(ENGLISH) + 2
    assert read_pairs(table, "en", ["fr"]) == [("a red dress", "une robe rouge"), ("green shoe", "chaussure verte")]


def test_mistakes_are_one_sentence(table, tmp_path):
    for options, sentence in (
        ({"source": "english"}, "has no column 'english' of captions"),
        ({"languages": ["nl"]}, "has no column 'nl'"),
        ({"table": str(tmp_path / "no.csv")}, "no.csv does not exist"),
        ({"teacher": "start"}, "would have no effect: name an English model"),
    ):
        with pytest.raises(ModisteError, match=sentence):
            Parallel(**{"teacher": "runs/a", "table": str(table), **options})
    (tmp_path / "empty.csv").write_text("en,de\na dress,\n")
    with pytest.raises(ModisteError, match="no row with a caption in 'en' and in de"):
        read_pairs(tmp_path / "empty.csv", "en", None)


def test_a_student_that_cannot_see_as_the_teacher_does_is_refused(table):
    teacher = two_tower().eval()
    with pytest.raises(ModisteError, match=r"set tune.image.train=frozen"):
        begun(table, copy.deepcopy(teacher), teacher)
    other = narrow_two_tower()
    Tuning("frozen").apply(other, "image")
    with pytest.raises(ModisteError, match=r"give the student the teacher's image"):
        begun(table, other, teacher)


def test_cached_features_are_refused(table):
    teacher = two_tower().eval()
    student = student_of(teacher)
    term = begun(table, student, teacher)
    with pytest.raises(ModisteError, match=r"features.cache=false"):
        term(torch.zeros(2, 16), torch.zeros(2, 16), {"pixels": torch.zeros(2, 64)}, torch.tensor(1.0))
