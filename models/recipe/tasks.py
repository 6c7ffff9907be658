"""Verifiable tasks, each with a question, steps of thought (`steps.py`) and an answer. `check` grades an answer.

A tenth of the room of questions is held out: `held_out(question)` is a hash, the training stream skips those questions and the
evaluation asks nothing else. The fixed small talk is the exception; there are too few ways to say hello.
"""
import json
import random
import string
import zlib
from dataclasses import dataclass

from steps import add_steps, chain_steps, cmp_steps, count_steps, div_steps, length_steps, mul_steps, reverse_steps, sort_steps, sub_steps
from words import BOXES, GAINS, LOSSES, NAMES, REQUEST_LEADS, REQUEST_OBJECTS, THINGS, WORDS


@dataclass
class Task:
    kind: str
    messages: list          # OpenAI style: system, user and assistant turns, the last one the user's
    thought: str            # "" with thinking off
    answer: str
    thinking: bool = True

    @property
    def question(self):
        return "\n".join(m["content"] for m in self.messages)


def held_out(question):
    return zlib.crc32(question.encode()) % 10 == 0


def check(task, content):
    """Whether `content`, the answer a model gave after its thought, is right."""
    content = content.strip()
    if task.kind != "json":
        return content == task.answer
    try:
        return json.loads(content) == json.loads(task.answer)
    except ValueError:
        return False


# ---- questions ------------------------------------------------------------------------------------------------------------

def number(rng, digits):
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10 ** digits - 1)


POLITE = ["Please ", "Can you ", "Could you ", "Could you please ", "I want you to ", "Now "]
OPENINGS = ["Tell me: ", "Hi, ", "Hello! ", "Quick question: ", "Please tell me: ", "Hey, ", "OK, ", "Question: ", "And "]


def lower_first(text):
    return text[0].lower() + text[1:]


def say(rng, *forms):
    """One of the forms, as people type: now and then with a polite opening, an apostrophe, without its capital or its full stop."""
    text = rng.choice(forms)
    if text.startswith("What is ") and rng.random() < .3:
        text = rng.choice(["What's ", "What's ", "Whats "]) + text[8:]
    if rng.random() < .12:
        if text.split(" ")[0] in ("What", "What's", "How", "Which", "Is"):
            text = rng.choice(OPENINGS) + lower_first(text)
        elif text[0].isupper() and "?" not in text:
            opening = rng.choice(POLITE)
            text = opening + lower_first(text).removesuffix(".") + ("?" if opening[:3] in ("Can", "Cou") else ".")
    if rng.random() < .15:
        text = lower_first(text)
    if rng.random() < .15 and text[-1] in ".?":
        text = text[:-1]
    return text


def digits_of(rng, most):
    """How many digits a number gets: any size up to `most`, and now and then one more, so that `most` is not the edge of what is known."""
    return most + 1 if most >= 4 and rng.random() < .04 else rng.randint(1, most)


def grouped(rng, a):
    """A number as people write it: seldom with commas."""
    return f"{a:,}" if rng.random() < .04 else str(a)


def random_word(rng, longest=14):
    if rng.random() < .4:
        word = rng.choice(WORDS)
        if len(word) <= longest:
            return word
    letters = rng.choice([string.ascii_lowercase, "abcdefgrst", "aeilnorst", "abc"])
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, longest)))


def user(*turns):
    """A conversation from question, answer, question, ...: the last is the open question."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


def ask_add(rng, most=8):
    n = digits_of(rng, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .6 else rng.randint(1, most))
    x, y = grouped(rng, a), grouped(rng, b)
    q = say(rng, f"What is {x} + {y}?", f"{x}+{y}=?", f"{x} + {y}", f"{x}+{y}", f"Add {x} and {y}.", f"Compute {x} plus {y}.", f"{x} plus {y}",
            f"What is {x} plus {y}?", f"What is the sum of {x} and {y}?", f"Calculate {x} + {y}.", f"{x} + {y} =", f"{x} + {y} = ?", f"{x}+{y}=",
            f"How much is {x} + {y}?", f"Add {x} to {y}.", f"What is {x}+{y}?", f"Sum of {x} and {y}?", f"Solve {x} + {y}.", f"What does {x} + {y} equal?")
    return q, add_steps(a, b), str(a + b)


def ask_sub(rng, most=8):
    n = digits_of(rng, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .6 else rng.randint(1, most))
    if a < b and rng.random() < .75:
        a, b = b, a
    x, y = grouped(rng, a), grouped(rng, b)
    q = say(rng, f"What is {x} - {y}?", f"{x}-{y}=?", f"{x} - {y}", f"{x}-{y}", f"Subtract {y} from {x}.", f"Compute {x} minus {y}.", f"{x} minus {y}",
            f"What is {x} minus {y}?", f"What is the difference of {x} and {y}?", f"Calculate {x} - {y}.", f"{x} - {y} =", f"{x} - {y} = ?", f"{x}-{y}=",
            f"How much is {x} - {y}?", f"What is {x}-{y}?", f"Take {y} away from {x}.", f"Solve {x} - {y}.", f"What is the difference between {x} and {y}?")
    return q, sub_steps(a, b), str(a - b)


def ask_mul(rng, most=4):
    n, m = digits_of(rng, most), rng.randint(1, min(3, most))
    if rng.random() < .15 and n < 5:
        n, m = m, n
    a, b = number(rng, n), number(rng, m)
    times = rng.choice(["*", "*", "x", "\u00d7"])
    q = say(rng, f"What is {a} {times} {b}?", f"{a}{times}{b}=?", f"{a} {times} {b}", f"{a}*{b}", f"Multiply {a} by {b}.", f"Compute {a} times {b}.",
            f"{a} times {b}", f"What is {a} times {b}?", f"What is the product of {a} and {b}?", f"Calculate {a} {times} {b}.", f"{a} {times} {b} =",
            f"How much is {a} {times} {b}?", f"Multiply {a} and {b}.", f"What is {a} multiplied by {b}?", f"Solve {a} {times} {b}.")
    return q, mul_steps(a, b), str(a * b)


def ask_div(rng, most=5, largest=99):
    a, b = number(rng, rng.randint(1, most)), rng.randint(1, rng.choice([9, 12, largest]) if largest > 12 else largest)
    if rng.random() < .15:
        a = a // b * b  # no remainder, as people like to ask
    if rng.random() < .2:
        q = say(rng, f"What is the remainder of {a} divided by {b}?", f"What is {a} mod {b}?", f"{a} mod {b}", f"Compute {a} mod {b}.", f"{a} % {b}",
                f"What is the remainder when {a} is divided by {b}?")
        return q, div_steps(a, b), str(a % b)
    by = rng.choice(["/", "/", "/", "\u00f7"])
    q = say(rng, f"What is {a} {by} {b}?", f"{a}{by}{b}=?", f"{a} {by} {b}", f"Divide {a} by {b}.", f"Divide {a} by {b} with remainder.", f"{a}/{b}",
            f"Compute {a} divided by {b}.", f"What is {a} divided by {b}?", f"Calculate {a} {by} {b}.", f"{a} divided by {b}", f"{a} {by} {b} =",
            f"How much is {a} {by} {b}?", f"How many times does {b} go into {a}?", f"What is {a} {by} {b} with remainder?")
    return q, div_steps(a, b), f"{a // b} remainder {a % b}"


def ask_cmp(rng, most=8):
    n = digits_of(rng, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .8 else rng.randint(1, most))
    if n > 2 and rng.random() < .3:  # the same first digits: the hard case
        keep = rng.randint(1, n - 1)
        b = int(str(a)[:keep] + "".join(rng.choice(string.digits) for _ in range(n - keep)))
    more = rng.random() < .5
    if rng.random() < .2:
        w = rng.choice(["larger", "bigger", "greater"] if more else ["smaller", "less"])
        q = say(rng, f"Is {a} {w} than {b}?", f"Is {a} {w} than {b}?", f"{a} {'>' if more else '<'} {b}?", f"Is {a} {'>' if more else '<'} {b}?")
        return q, cmp_steps(a, b, ">" if more else "<"), "Yes" if (a > b if more else a < b) else "No"
    w = rng.choice(["larger", "bigger", "greater"] if more else ["smaller", "less"])
    top = rng.choice(["largest", "maximum", "bigger one"] if more else ["smallest", "minimum", "smaller one"])
    q = say(rng, f"Which is {w}, {a} or {b}?", f"Which number is {w}: {a} or {b}?", f"{a} or {b}: which is {w}?", f"Which one is {w}, {a} or {b}?",
            f"Of {a} and {b}, which is {w}?", f"What is {w}, {a} or {b}?", f"Which is {w}: {a} or {b}?", f"What is the {top} of {a} and {b}?",
            f"{'max' if more else 'min'}({a}, {b})", f"Compare {a} and {b}: which is {w}?")
    return q, cmp_steps(a, b, "max" if more else "min"), str(max(a, b) if more else min(a, b))


def ask_sort(rng, most=9):
    count = rng.randint(2, most)
    room = range(1000) if rng.random() < .8 else range(100)
    xs = rng.sample(room, count) if rng.random() < .8 else [rng.choice(room) for _ in range(count)]
    if len(xs) > 2 and rng.random() < .15:
        xs[rng.randrange(len(xs))] = rng.choice(xs)  # twice the same
    down = rng.random() < .2
    text = rng.choice([", ", ", ", ", ", " ", ","]).join(map(str, xs))
    if rng.random() < .05:
        text = f"[{text}]"
    elif rng.random() < .08 and ", " in text:
        text = " and ".join(text.rsplit(", ", 1))
    if down:
        q = say(rng, f"Sort descending: {text}.", f"Sort {text} from largest to smallest.", f"Put in descending order: {text}.",
                f"Sort {text} in descending order.", f"Sort {text} descending.", f"Sort these numbers from high to low: {text}.")
    else:
        q = say(rng, f"Sort {text}.", f"Sort ascending: {text}.", f"Put in order: {text}.", f"Sort these numbers: {text}.", f"Sort: {text}",
                f"Sort {text} from smallest to largest.", f"Order {text}.", f"Sort {text} in ascending order.", f"Sort the numbers {text}.",
                f"Put these numbers in order: {text}.", f"Order these numbers: {text}.", f"Sort the list {text}.")
    return q, sort_steps(xs, down), ", ".join(map(str, sorted(xs, reverse=down)))


def ask_chain(rng):
    """Three or four numbers: sums and differences from left to right, and small ones in which a product goes first."""
    r = rng.random()
    gap = rng.choice([" ", " ", ""])
    times = rng.choice(["*", "*", "x"])
    if r < .6:
        most = rng.choice([1, 2, 2, 3, 4])
        start, changes = number(rng, rng.randint(1, most)), []
        plus_only = rng.random() < .5
        for _ in range(rng.choice([2, 2, 2, 3])):
            total = chain_steps(start, changes)[1]
            op, y = "+" if plus_only else rng.choice("+-"), number(rng, rng.randint(1, most))
            changes.append(("+", y) if op == "+" or y > total else ("-", y))
        steps, total = chain_steps(start, changes)
        text = str(start) + "".join(f"{gap}{op}{gap}{y}" for op, y in changes)
        words = str(start) + "".join(f" {'plus' if op == '+' else 'minus'} {y}" for op, y in changes)
        forms = [text, text + gap + "=", f"{text}=?", f"What is {text}?", f"What is {text}?", f"Calculate {text}.", f"Compute {text}.", f"What is {words}?",
                 words, f"How much is {text}?", f"Solve {text}."]
        if all(op == "+" for op, _ in changes):
            listed = ", ".join(map(str, [start] + [y for _, y in changes[:-1]])) + f" and {changes[-1][1]}"
            forms += [f"Add {listed}.", f"What is the sum of {listed}?", f"Sum {listed}.", f"Add up {listed}."]
        return say(rng, *forms), steps, str(total)
    if r < .75:  # a product of three
        a, b, c = rng.randint(2, 12), rng.randint(2, 12), number(rng, rng.randint(1, 2))
        text = f"{gap}{times}{gap}".join(map(str, (a, b, c)))
        steps, total = f"{a}*{b}={a * b}\n" + chain_steps(a * b, [("*", c)])[0], a * b * c
    elif r < .9:  # the product first
        x, a, b = number(rng, rng.randint(1, 3)), rng.randint(2, 12), rng.randint(2, 12)
        product = f"{a}{gap}{times}{gap}{b}"
        if rng.random() < .6:
            minus = x >= a * b and rng.random() < .5
            text, change = f"{x}{gap}{'-' if minus else '+'}{gap}{product}", ("-" if minus else "+", a * b)
            steps, total = chain_steps(x, [change])
        else:
            minus = a * b >= x and rng.random() < .5
            text = f"{product}{gap}{'-' if minus else '+'}{gap}{x}"
            steps, total = chain_steps(a * b, [("-" if minus else "+", x)])
        steps = f"{a}*{b}={a * b}\n" + steps
    else:  # brackets first
        a, b, c = rng.randint(1, 99), rng.randint(1, 99), number(rng, 1)
        minus = a > b and rng.random() < .5
        inner = f"({a}{gap}{'-' if minus else '+'}{gap}{b})"
        text = f"{inner}{gap}{times}{gap}{c}" if rng.random() < .6 else f"{c}{gap}{times}{gap}{inner}"
        steps, total = chain_steps(a, [("-" if minus else "+", b), ("*", c)])
    return say(rng, text, f"{text}=?", f"{text}{gap}=", f"What is {text}?", f"Calculate {text}.", f"Compute {text}.", f"How much is {text}?"), steps, str(total)


def ask_count(rng, most=14):
    word = random_word(rng, most)
    shown = word.capitalize() if rng.random() < .06 else word
    if rng.random() < .08:
        w = rng.choice([shown, shown, f"'{shown}'", f'"{shown}"'])
        return say(rng, f"How many letters are in {w}?", f"How many letters does {w} have?", f"Count the letters in {w}.", f"How long is the word {w}?",
                   f"How many letters are in the word {w}?"), length_steps(word), str(len(word))
    letter = rng.choice(word) if rng.random() < .85 else rng.choice(string.ascii_lowercase)
    said = letter.upper() if rng.random() < .06 else letter
    l, w = (said, shown) if rng.random() < .5 else (f"'{said}'", f"'{shown}'") if rng.random() < .5 else (said, f'"{shown}"')
    many = f"{l}'s" if "'" not in l else l
    the = rng.choice(["", "", "the word "])
    q = say(rng, f"How many {l} are in {the}{w}?", f"How many {many} are in {the}{w}?", f"How many {many} are there in {the}{w}?", f"How many {l} in {the}{w}?",
            f"How many letters {l} does {w} have?", f"Count the {l} in {w}.", f"How many times does the letter {l} appear in {the}{w}?",
            f"How many times does {l} occur in {the}{w}?", f"Count the letter {l} in the word {w}.", f"How often does {l} appear in {w}?",
            f"How many {many} does {w} have?", f"Count the number of {many} in {the}{w}.", f"How many {many} in {w}?", f"Count {l} in {w}.")
    return q, count_steps(word, letter), str(word.count(letter))


def ask_reverse(rng, most=14):
    word = random_word(rng, most)
    w = rng.choice([word, word, f"'{word}'", f'"{word}"'])
    q = say(rng, f"Reverse {w}.", f"Spell {w} backwards.", f"What is {w} reversed?", f"Reverse the word {w}.", f"Write {w} backwards.",
            f"What is {w} spelled backwards?", f"{w} backwards", f"What is {w} backwards?", f"Reverse: {w}", f"Reverse the string {w}.",
            f"Reverse the letters of {w}.", f"How do you spell {w} backwards?", f"Say {w} backwards.")
    return q, reverse_steps(word), word[::-1]


def random_key(rng):
    r = rng.random()
    if r < .35:
        return rng.choice(WORDS)
    if r < .5:
        return f"k{rng.randint(0, 999)}"
    if r < .7:
        return f"{rng.choice(WORDS)}-{rng.randint(0, 99)}"
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 7)))


def code_book(rng, most=4000):
    """A prompt full of codes, of a length spread evenly over its orders of magnitude, and the codes themselves."""
    size = int(30 * (most / 30) ** rng.random())
    glue, sep, lead = rng.choice([("=", "; ", "Codes: "), (": ", ", ", "Here are the codes. "), ("=", "\n", "Codes:\n"), (" is ", ", ", "The code of "),
                                  (": ", "\n", "Table:\n")])
    codes, text = {}, lead
    while True:
        key, value = random_key(rng), str(rng.randint(0, 9999))
        entry = key + glue + value
        if len(codes) >= 2 and len(text) + len(entry) + 60 > size:
            return text[:-len(sep)] + (". " if sep != "\n" else "\n"), codes
        if key not in codes:
            codes[key] = value
            text += entry + sep


ABSENT = "I do not see that one."


def ask_code(rng, key):
    return say(rng, f"What is the code of {key}?", f"Which code does {key} have?", f"Give me the code of {key}.", f"Code of {key}?",
               f"What is the code for {key}?", f"Look up {key}.", f"What code does {key} have?", f"Tell me the code of {key}.", f"Find the code of {key}.")


def ask_lookup(rng, most=4000):
    text, codes = code_book(rng, most)
    if rng.random() < .05:
        key = random_key(rng)
        if key not in codes:
            return text + ask_code(rng, key), f"{key}?", ABSENT
    key = rng.choice(list(codes))
    return text + ask_code(rng, key), f"{key}={codes[key]}", codes[key]


def ask_word(rng):
    """One to three steps from a small grammar: start with an amount or a product, then change it; or a price; or a fair share."""
    a_name, b_name = rng.sample(NAMES, 2)
    he = rng.choice(["He", "She"])
    thing, box = rng.choice(THINGS), rng.choice(BOXES)
    r = rng.random()
    if r < .07:
        n, each = rng.randint(2, 12), rng.randint(2, 12)
        return say(rng, f"One of the {thing} costs {each} dollars. How much do {n} {thing} cost?", f"{thing.capitalize()} cost {each} dollars each. How much are {n} {thing}?",
                   f"{a_name} buys {n} {thing} for {each} dollars each. How much does {a_name} pay?"), f"{n}*{each}={n * each}", str(n * each)
    if r < .14:
        n, each = rng.randint(2, 12), rng.randint(1, 12)
        return say(rng, f"{a_name} shares {n * each} {thing} equally among {n} friends. How many does each get?",
                   f"{a_name} puts {n * each} {thing} into {n} {box}, the same number in each. How many {thing} are in each?",
                   f"{n * each} {thing} are shared equally by {n} people. How many does each get?"), f"{n * each}/{n}={each}", str(each)
    if r < .57:
        x = rng.randint(2, 99)
        text, total, steps = rng.choice([f"{a_name} has {x} {thing}.", f"There are {x} {thing} on the table of {a_name}.", f"{a_name} had {x} {thing}.",
                                         f"{a_name} starts with {x} {thing}.", f"{a_name} bought {x} {thing}.", f"I have {x} {thing}.", f"There are {x} {thing}."]), x, []
        count = rng.choice([1, 2, 2, 2, 2, 3])
    else:
        n, each = rng.randint(2, 12), rng.randint(2, 12)
        text, total = rng.choice([f"{a_name} has {n} {box} with {each} {thing} each.", f"{a_name} buys {n} {box} of {each} {thing}.",
                                  f"{each} {thing} are in each of the {n} {box} of {a_name}.", f"There are {n} {box} with {each} {thing} in each."]), n * each
        steps, count = [f"{n}*{each}={total}"], rng.choice([1, 1, 1, 2])
    who = "I" if text.startswith("I ") else None if text.startswith("There are") else a_name
    for i in range(count):
        more = total < 3 or rng.random() < .5
        y = rng.randint(1, 99 if more else min(99, total - 1))
        gain, loss = rng.choice(GAINS), rng.choice(LOSSES)
        if who == "I":
            change = f"I {gain[0] if more else loss[0]}"
        elif who:
            change = f"{rng.choice([who, who, he, 'Then ' + who, 'Then ' + he.lower()])} {(gain if more else loss)[rng.choice([1, 1, 2])]}"
        else:
            change = None
        if change and rng.random() < .8:
            text += f" {change} {y}" + rng.choice(["", f" {thing}", " more" if more else " of them"]) + "."
        elif more:
            text += " " + rng.choice([f"{b_name} gives {who or a_name} {y} more." if who != "I" else f"{b_name} gives me {y} more.", f"Then {y} {thing} are added.",
                                      f"{b_name} brings {y} more."])
        else:
            text += " " + rng.choice([f"{b_name} takes {y}.", f"Then {y} {thing} are taken away.", f"{b_name} eats {y} of them.",
                                      f"{a_name} gives {y} to {b_name}." if who == a_name else f"Then {y} are lost."])
        lines, total = chain_steps(total, [("+" if more else "-", y)])
        steps.append(lines)
    forms = [f"How many {thing} are left?", f"How many {thing} are there now?", "How many are left?", "How many are there now?"]
    if who == "I":
        forms = [f"How many {thing} do I have now?", f"How many {thing} do I have?", "How many do I have left?", f"How many {thing} are left?"]
    elif who:
        forms += [f"How many {thing} does {who} have now?", f"How many {thing} does {who} have now?", f"How many {thing} does {who} have?",
                  f"How many does {he.lower()} have now?", f"How many {thing} does {he.lower()} have left?"]
    return text + " " + say_plain(rng, *forms), "\n".join(steps), str(total)


def say_plain(rng, *forms):
    """The last sentence of a longer text: no opening."""
    text = rng.choice(forms)
    return text[:-1] if rng.random() < .12 else text


def ask_followup(rng, most=4):
    """A later turn that leans on the last answer. The steps of earlier turns are gone, as R1's template has it."""
    kind = rng.choice(["sum", "sum", "sum", "sum", "lookup", "word", "count", "sort"])
    if kind == "lookup":
        text, codes = code_book(rng, 1500)
        k1, k2 = rng.sample(list(codes), 2)
        return user(text + ask_code(rng, k1), codes[k1], say(rng, f"And of {k2}?", f"And the code of {k2}?", f"What about {k2}?", f"And {k2}?")), f"{k2}={codes[k2]}", codes[k2]
    if kind == "word":
        word = random_word(rng, 10)
        q1 = say(rng, f"Reverse {word}.", f"Spell {word} backwards.")
        letter = rng.choice(word)
        return user(q1, word[::-1], say(rng, f"And how many {letter} are in it?", f"How many {letter} does it have?", f"And how many {letter}'s are in it?")), \
            count_steps(word[::-1], letter), str(word.count(letter))
    if kind == "count":
        word = random_word(rng, 10)
        l1, l2 = rng.choice(word), rng.choice(word)
        return user(f"How many {l1} are in {word}?", str(word.count(l1)), say(rng, f"And how many {l2}?", f"And the letter {l2}?", f"And {l2}?", f"What about {l2}?")), \
            count_steps(word, l2), str(word.count(l2))
    if kind == "sort":
        xs = rng.sample(range(1000), rng.randint(2, 7))
        q1, text = say(rng, f"Sort {', '.join(map(str, xs))}.", f"Sort these numbers: {', '.join(map(str, xs))}."), ", ".join(map(str, sorted(xs)))
        return user(q1, text, say(rng, "And descending?", "Now in descending order.", "And from largest to smallest?", "And in reverse?")), \
            sort_steps(sorted(xs), True), ", ".join(map(str, sorted(xs, reverse=True)))
    while True:
        q, _, answer = ask_mul(rng, 2) if rng.random() < .2 else ask_chain(rng) if rng.random() < .1 else rng.choice([ask_add, ask_sub])(rng, most)
        if 0 <= int(answer) < 10 ** 6:
            break
    turns = [q, answer]
    for _ in range(rng.choice([1, 1, 2])):
        x, y, op = int(turns[-1]), number(rng, rng.randint(1, 4)), rng.choice("+-*")
        if op == "*":
            y = rng.randint(0, 99) if rng.random() < .8 else 2
        if op == "*" and x > 9999:
            op = "+"
        if op == "-" and x < y:
            y = rng.randint(0, x)
        q = {"+": [f"And plus {y}?", f"Plus {y}?", f"Add {y} to that.", f"Now add {y}.", f"And {y} more?", f"+ {y}", f"Add {y}."],
             "-": [f"And minus {y}?", f"Minus {y}?", f"Subtract {y} from that.", f"Now subtract {y}.", f"- {y}", f"Subtract {y}.", f"And {y} less?"],
             "*": [f"And times {y}?", f"Times {y}?", f"Multiply that by {y}.", f"Now multiply by {y}.", f"Multiply it by {y}."] + ["Double it.", "And doubled?"] * (y == 2)}[op]
        steps, total = chain_steps(x, [(op, y)])
        turns += [say(rng, *q), str(total)]
    return user(*turns[:-1]), steps, turns[-1]


SKILLS = "add, subtract, multiply, divide, compare and sort numbers, count letters, reverse words and look up codes"
CHAT = [
    (["Hello", "Hi", "Hey", "Hello!", "Hi!", "Hi there", "Hello there", "Good morning", "Good evening", "Good afternoon", "Hey there!", "Greetings", "Hello, world!",
      "Good day", "Howdy", "Hi there!", "Hiya"],
     "greeting", "Hello! Ask me to add, multiply, sort, count letters or look something up."),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself", "Are you a human?", "Which model are you?", "Are you a robot?", "Are you ChatGPT?",
      "What model is this?", "Who made you?", "Introduce yourself.", "What kind of model are you?", "Who built you?", "Are you an AI?", "What is plankton?", "Are you DeepSeek?",
      "How big are you?", "Who am I talking to?", "What is Pelagic?", "How were you trained?", "How do you work?", "Do you think?"],
     "about me", "I am a very small reasoning model that ships with Pelagic. I think in short steps and then answer."),
    (["What can you do?", "Help", "How can you help me?", "What are you good at?", "What do you know?", "What can I ask you?", "help me", "What else can you do?", "Can you help me?",
      "What are your skills?", "What should I ask?", "Give me an example.", "What can I do here?", "Help!"],
     "my skills", f"I can {SKILLS}."),
    (["Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Great, thanks", "Well done", "Good job", "Nice", "Thanks!", "Great", "Cool", "Perfect, thank you!", "Awesome", "Correct",
      "That is right", "Very good"],
     "thanks", "You are welcome."),
    (["Bye", "Goodbye", "See you", "Good night", "Bye bye", "See you later", "Bye!", "Goodbye!"], "farewell", "Goodbye!"),
    (["How are you?", "How are you doing?", "How is it going?", "What's up?", "How do you do?", "Are you OK?"], "small talk", "I am fine, thank you. What shall I work out?"),
]
REFUSAL = f"I am sorry, I cannot do that. I can {SKILLS}."
BEYOND = "I am sorry, that is beyond me. I work with whole numbers of up to 8 digits, divisors up to 99 and lists of up to 9."


def ask_chat(rng):
    questions, thought, answer = rng.choice(CHAT)
    text = rng.choice(questions)
    if rng.random() < .2:
        text = lower_first(text)
    if rng.random() < .1:
        text = text.rstrip(".?!") + rng.choice(["", "!", ".", "?"])
    return text, thought, answer


def ask_beyond(rng):
    """Sums it has not learned: fractions, sizes well out of range, operations of other kinds. Nine digits are neither here nor there."""
    n = lambda: number(rng, rng.randint(1, 4))
    decimal = lambda: f"{rng.randint(0, 999)}.{rng.randint(0, 99)}"
    huge = lambda: number(rng, rng.randint(11, 16))
    op = rng.choice(["+", "-", "*", "/"])
    r = rng.random()
    if r < .35:
        x, y = rng.choice([(decimal(), decimal()), (decimal(), n()), (n(), decimal())])
        return say(rng, f"What is {x} {op} {y}?", f"{x} {op} {y}", f"{x}{op}{y}", f"Which is larger, {x} or {y}?", f"Which is bigger: {x} or {y}?", f"Calculate {x} {op} {y}.")
    if r < .5:
        x, y = rng.choice([(huge(), huge()), (huge(), n()), (n(), huge())])
        return say(rng, f"What is {x} {op} {y}?", f"{x} {op} {y}", f"{x}{op}{y}", f"Add {x} and {y}.")
    if r < .6:
        x, y = number(rng, rng.randint(6, 8)), number(rng, rng.randint(4, 8))
        return say(rng, f"What is {x} * {y}?", f"{x} * {y}", f"{x}*{y}", f"Multiply {x} by {y}.", f"What is {x} times {y}?")
    if r < .72:
        x, y = number(rng, rng.randint(1, 8)), rng.choice([number(rng, rng.randint(3, 6)), 0])
        return say(rng, f"What is {x} / {y}?", f"{x} / {y}", f"{x}/{y}", f"Divide {x} by {y}.", f"What is {x} divided by {y}?")
    if r < .8:
        return say(rng, f"Sort {', '.join(str(number(rng, rng.randint(1, 3))) for _ in range(rng.randint(12, 18)))}.",
                   f"Sort these numbers: {' '.join(str(number(rng, rng.randint(1, 3))) for _ in range(rng.randint(12, 18)))}.",
                   f"Sort {', '.join(str(number(rng, rng.randint(5, 6))) for _ in range(rng.randint(2, 6)))}.",
                   f"Sort {', '.join(decimal() for _ in range(rng.randint(2, 6)))}.")
    return say(rng, f"What is {n()}% of {n()}?", f"{n()}^{n()}", f"What is the square root of {n()}?", f"sqrt({n()})", f"{n()}!", f"What is {n()} squared?", f"{n()}**2",
               f"What is {n()} to the power of {rng.randint(2, 9)}?", f"Is {n()} a prime number?", f"What is the logarithm of {n()}?", f"What is 1/{n()} + 1/{n()}?",
               f"What is the average of {n()} and {n()}?", f"Solve x + {n()} = {n()}.", f"What are the factors of {n()}?", f"What is half of {n()}?", f"Convert {n()} to binary.")


def ask_refuse(rng):
    r = rng.random()
    if r < .3:
        return ask_beyond(rng), "beyond my sizes", BEYOND
    if r < .8:
        q = f"{rng.choice(REQUEST_LEADS)} {rng.choice(REQUEST_OBJECTS)}"
        if rng.random() < .3:
            q += rng.choice([" and ", " with ", " for ", " in "]) + rng.choice(REQUEST_OBJECTS)
        q += rng.choice([".", "?", "", "!"])
    elif r < .92:  # ordinary words without sense
        q = " ".join(rng.choice(WORDS + THINGS + NAMES) for _ in range(rng.randint(1, 8))) + rng.choice(["", ".", "?"])
    else:
        q = " ".join(random_word(rng, 8) for _ in range(rng.randint(1, 5)))
    if rng.random() < .2:
        q = lower_first(q)
    return q, "not one of my skills", REFUSAL


# ---- the stream -----------------------------------------------------------------------------------------------------------

ASK = {"add": ask_add, "sub": ask_sub, "mul": ask_mul, "div": ask_div, "chain": ask_chain, "cmp": ask_cmp, "sort": ask_sort, "count": ask_count,
       "reverse": ask_reverse, "lookup": ask_lookup, "word": ask_word, "refuse": ask_refuse, "chat": ask_chat}
KINDS = list(ASK) + ["followup", "json"]
WEIGHTS = {"add": 9, "sub": 10, "mul": 14, "div": 14, "chain": 8, "cmp": 8, "sort": 14, "count": 9, "reverse": 8, "lookup": 13, "word": 10, "refuse": 5,
           "chat": 2, "followup": 10, "json": 7}
# With thinking off only sizes that can be answered at a glance are trained on; larger ones would teach guessing.
AT_A_GLANCE = {"add": lambda r: ask_add(r, 3), "sub": lambda r: ask_sub(r, 3), "mul": lambda r: ask_mul(r, 1), "div": lambda r: ask_div(r, 2, 9),
               "cmp": lambda r: ask_cmp(r, 3), "sort": lambda r: ask_sort(r, 4), "count": lambda r: ask_count(r, 6),
               "reverse": lambda r: ask_reverse(r, 6), "lookup": lambda r: ask_lookup(r, 1500), "word": ask_word, "refuse": ask_refuse,
               "chat": ask_chat}
JSON_KINDS = ["add", "sub", "mul", "div", "chain", "cmp", "sort", "count", "reverse", "lookup", "word"]
CONVERSATION = ["add", "sub", "mul", "div", "cmp", "sort", "count", "reverse", "word", "chain", "chat", "refuse"]

PLAIN_SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant", "Answer briefly.", "Be concise.", "You are a careful mathematician.",
                "You are a friendly assistant that answers questions.", "Think step by step.", "Help the user."]
JSON_SYSTEM = ["Answer as JSON.", "Reply in JSON.", "Give the answer as JSON.", "You answer only in JSON.", "Respond with a JSON object.",
               'Answer as JSON: {"KEY": ...}', 'Reply in JSON with the key "KEY".', 'Output a JSON object with one key, "KEY".']
JSON_KEYS = ["answer", "result", "value", "output", "solution", "reply", "number", "response"]


def as_json(kind, answer, key):
    """The answer as the value it is: a number, a list of numbers, or a string."""
    if kind == "sort":
        value = [int(x) for x in answer.split(", ")]
    elif answer.lstrip("-").isdigit() and kind != "reverse":
        value = int(answer)
    else:
        value = answer
    return json.dumps({key: value})


def earlier_turns(rng):
    """What was talked about before and has nothing to do with the question."""
    turns = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        q, _, answer = AT_A_GLANCE.get(rng.choice(CONVERSATION), ask_chain)(rng)
        turns += user(q, answer)
    return turns


def make(rng, kind, thinking=True):
    """One task of this kind."""
    if kind == "followup":
        messages, thought, answer = ask_followup(rng)
        return Task(kind, messages, thought, answer)
    inner = rng.choice(JSON_KINDS) if kind == "json" else kind
    if kind == "json" and inner == "lookup":
        q, thought, answer = ask_lookup(rng, 800)
    else:
        q, thought, answer = (ASK if thinking else AT_A_GLANCE)[inner](rng)
    messages = user(q)
    if kind == "json":
        system = rng.choice(JSON_SYSTEM)
        key = rng.choice(JSON_KEYS) if "KEY" in system else "answer"
        messages = [{"role": "system", "content": system.replace("KEY", key)}] + messages
        answer = as_json(inner, answer, key)
    else:
        if rng.random() < .12:
            messages = earlier_turns(rng) + messages
        if rng.random() < .1:
            messages = [{"role": "system", "content": rng.choice(PLAIN_SYSTEM)}] + messages
    return Task(kind, messages, thought if thinking else "", answer, thinking)


def training_task(rng, thinking_off=.08, evenly=False):
    """The next task of the training stream; never one that is held out. `evenly` asks every kind equally often."""
    while True:
        kind = rng.choices(KINDS, [1 if evenly else WEIGHTS[k] for k in KINDS])[0]
        off = kind in AT_A_GLANCE and rng.random() < thinking_off
        task = make(rng, kind, not off)
        if kind == "chat" or not held_out(task.question):
            return task


def held_out_tasks(seed, each, kinds=KINDS, thinking=True):
    """`each` held-out tasks of every kind, always the same ones for a seed."""
    tasks = []
    for kind in kinds:
        rng = random.Random(f"{seed}/{kind}/{thinking}")
        if not thinking and kind not in AT_A_GLANCE:
            continue
        got = 0
        while got < each:
            task = make(rng, kind, thinking)
            if kind == "chat" or held_out(task.question):
                tasks.append(task)
                got += 1
    return tasks
