import pytest

from nbhelpers.class_texts import describe_classes


@pytest.mark.parametrize(
    ("classes", "desc", "said"),
    [
        (
            ["food", "sport"],
            'Sort posts: 0. "food" (cooking, recipes,\n  baking), or 1. "sport" (matches and teams).',
            ["food: cooking, recipes, baking", "sport: matches and teams"],
        ),
        (
            ["home", "work"],
            '0. "home": Work around the house. 1. "work": What you do at work, not home.',
            ["home: Work around the house", "work: What you do at work, not home"],
        ),
        (["spam", "ham"], "Spam: adverts; ham = the rest", ["spam: adverts", "ham: the rest"]),
        (["b", "a"], "a - the first kind, b - the second kind", ["b: the second kind", "a: the first kind"]),
        (
            ["sci/tech", "c++ (new)"],
            "1) “sci/tech” – gadgets, 2) “c++ (new)”: code",
            ["sci/tech: gadgets", "c++ (new): code"],
        ),
        (
            ["credit cards", "cars"],
            "credit cards: Credit cards: limits. cars: fuel",
            ["credit cards: Credit cards: limits", "cars: fuel"],
        ),
        (["very  rare", "rare"], "very rare: hardly ever seen", ["very  rare: hardly ever seen", "rare"]),
    ],
)
def test_description_is_what_follows_the_name(classes, desc, said):
    assert describe_classes(classes, desc) == said


@pytest.mark.parametrize(
    "desc",
    [
        "Tell spam from ham.",
        'Tell unwanted advertising, 0. "spam", from ordinary messages, 1. "ham".',
        "Sort these.",
        "",
    ],
)
def test_class_without_a_description_is_its_name(desc):
    assert describe_classes(["spam", "ham"], desc) == ["spam", "ham"]


def test_classes_may_be_explained_in_part():
    assert describe_classes(["a b", "c", "d"], '"c": see this. The d is nice.') == [
        "a b",
        "c: see this. The d is nice",
        "d",
    ]
