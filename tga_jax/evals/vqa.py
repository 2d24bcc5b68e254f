"""Short answers as EvalAI's VQA servers compare them, and the accuracy over ten people's answers.

The rules are those of the m4c evaluator, which LLaVA uses for TextVQA and for what it sends to the VQAv2 server, with
their oddities: commas go before anything else, so the VQA challenge's comma rule has nothing left to do; "whats"
becomes "what's", but "what's" two words; the answer "a" is an article and becomes "". The challenge's own script leaves
answers as they are where all ten people agree; here they are always normalized.
"""

import re
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import BenchmarkSample

ANSWERS = 10  # of people to each question

_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_PERIOD = re.compile(r"\.(?!\d)")  # "u.s." loses both, "3.5" and ".5" none
_ARTICLES = ("a", "an", "the")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_PAIRS = """
aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've couldnt've=couldn't've
didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've hasnt=hasn't
havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's Id've=I'd've
I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am
mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at
shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've shouldnt=shouldn't
shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd somebodyd've=somebody'd've
somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's someoned=someone'd someoned've=someone'd've
someone'dve=someone'd've someonell=someone'll someones=someone's somethingd=something'd
somethingd've=something'd've something'dve=something'd've somethingll=something'll thats=that's thered=there'd
thered've=there'd've there'dve=there'd've therere=there're theres=there's theyd=they'd theyd've=they'd've
they'dve=they'd've theyll=they'll theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've
we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's
whered=where'd wheres=where's whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll whos=who's
whove=who've whyll=why'll whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't
wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've
y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've you'dve=you'd've youll=you'll youre=you're
youve=you've
"""
_CONTRACTIONS: dict[str, str] = dict(re.findall(r"(\S+)=(\S+)", _PAIRS))


def normalize(answer: str) -> str:
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    cleaned = text
    for mark in _PUNCTUATION:  # one that touches a blank anywhere goes, everywhere; others part words
        cleaned = cleaned.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", cleaned).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, answers: list[str]) -> float:
    """min(matches / 3, 1), averaged over the choices of all people but one."""
    said, given = normalize(answer), [normalize(one) for one in answers]
    matches = given.count(said)
    return sum(min((matches - (one == said)) / 3, 1.0) for one in given) / len(given)


def score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    """Of a sample whose target is people's answers; nothing where it has none."""
    return {} if sample.target is None else {"accuracy": accuracy(answer, sample.target)}


def checked_answers(answers: list[Any], where: str) -> list[str]:
    """Raises UserError unless they are ten strings."""
    if len(answers) != ANSWERS or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"{where}: `answers` has {len(answers)} entries, expected {ANSWERS} answers, each a string")
    return answers
