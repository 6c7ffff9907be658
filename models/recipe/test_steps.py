"""Recomputes the steps of thought from the question, figure by figure:  python -m unittest test_steps   (Python alone)

The checker is another way round than the generator: it works on whole numbers (a carry into column i is the sum of both numbers'
last i digits, cut), reads what a question asks from its words, and accepts nothing that it has not recomputed. So one changed character
anywhere in a thought must be refused, which is tested too.
"""
import json
import random
import re
import string
import unittest

import tasks
import words

LETTERS = "abcdefghijkl"


class Wrong(Exception):
    pass


def need(holds, *why):
    if not holds:
        raise Wrong(*why)


class Lines:
    """The lines of a thought, taken one after another."""

    def __init__(self, thought):
        self.lines, self.at = thought.split("\n"), 0

    def next(self, want=None):
        need(self.at < len(self.lines), "the thought ends too early")
        self.at += 1
        line = self.lines[self.at - 1]
        need(want is None or line == want, f"{line!r} should be {want!r}")
        return line

    def peek(self, pattern):
        return self.at < len(self.lines) and re.fullmatch(pattern, self.lines[self.at])

    def end(self):
        need(self.at == len(self.lines), "more lines than steps")


def digit(a, i):
    return a // 10 ** i % 10


def sizes(a, b):
    return range(max(len(str(a)), len(str(b))))


def check_add(lines, a, b):
    lines.next(" ".join(f"{LETTERS[i]}{digit(a, i)}{digit(b, i)}" for i in sizes(a, b)))
    for i in sizes(a, b):
        into, low = 10 ** i, 10 ** (i + 1)
        lines.next(f"{LETTERS[i]}{digit(a, i)}+{digit(b, i)}+{(a % into + b % into) // into}={digit(a + b, i)},{(a % low + b % low) // low} {(a + b) % low:0{i + 1}d}")
    lines.next(f"={a + b}")
    return a + b


def check_sub(lines, a, b):
    lines.next(" ".join(f"{LETTERS[i]}{digit(a, i)}{digit(b, i)}" for i in sizes(a, b)))
    for x, y in [(a, b)] if a >= b else [(a, b), (b, a)]:
        if (x, y) != (a, b):
            lines.next("swap")
        for i in sizes(a, b):
            into, low = 10 ** i, 10 ** (i + 1)
            lines.next(f"{LETTERS[i]}{digit(x, i)}-{digit(y, i)}-{int(x % into < y % into)}={digit(x - y, i)},{int(x % low < y % low)} {(x - y) % low:0{i + 1}d}")
    lines.next(f"={a - b}")
    return a - b


def check_mul(lines, a, b):
    n, m = len(str(a)), len(str(b))
    lines.next(" ".join([f"{LETTERS[i]}{digit(a, i)}" for i in range(n)] + [f"{'pqrs'[j]}{digit(b, j)}" for j in range(m)]))
    for j in range(m):
        y, before = digit(b, j), a * (b % 10 ** j)
        lines.next(f"{'pqrs'[j]}{y}")
        for i in range(n):
            at = 10 ** (i + j)
            carry = (before % at + y * 10 ** j * (a % 10 ** i)) // at
            total = digit(a, i) * y + digit(before, i + j) + carry
            column = LETTERS[i + j].upper()
            lines.next(f"{LETTERS[i]}{digit(a, i)}*{y}+{column}{digit(before, i + j)}+{carry}={column}{total % 10},{total // 10}")
        lines.next(f"={LETTERS[n + j].upper()}{digit(a * (b % 10 ** (j + 1)), n + j)}")
    lines.next(" ".join(f"{LETTERS[i].upper()}{digit(a * b, i)}" for i in reversed(range(n + m))))
    lines.next(f"={a * b}")
    return a * b


def check_div(lines, a, b):
    lines.next(" ".join(f"{k}{k * b:03d}" for k in range(1, 10)))
    n = len(str(a))
    lines.next(" ".join(f"{LETTERS[i]}{digit(a, n - 1 - i)}" for i in range(n)))
    for i in range(n):
        head = a // 10 ** (n - 1 - i)   # the digits so far; of which `head % 10 + 10 * (rest before)` is divided now
        now, q = head // 10 % b * 10 + head % 10, head // b
        taken = q % 10 * b
        found = re.fullmatch(r"(\w)(\d) (\d{3}):((?: \d{4}[<=>])+) (\d)(\d{3})(?: (\d)-(\d)=(\d),([01]) (\d)-(\d)-([01])=(\d))? r(\d\d) q(\d+)", lines.next())
        need(found, "not a line of a division")
        column, x, shown, walked, k, multiple, *took, rest, quotient = found.groups()
        need((column, int(x), int(shown)) == (LETTERS[i], head % 10, now), "what is divided")
        walked = walked.split()
        need(len(walked) == (q % 10 if taken == now > 0 else min(q % 10 + 1, 9)), "how far the walk goes")
        for j, w in enumerate(walked, 1):
            need(w == f"{j}{j * b:03d}" + ("<" if j * b < now else ">" if j * b > now else "="), w)
        need((int(k), int(multiple)) == (q % 10, taken), "the multiple taken")
        need((took[0] is None) == (taken == 0 or taken == now), "a subtraction where one is needed")
        if took[0]:
            u, v, w, borrow, x, y, borrowed, z = map(int, took)
            need((10 * x + u, 10 * y + v) == (now % 100, taken % 100), "the columns")
            need(borrow == borrowed == int(u < v), "the borrow")
            need(10 * z + w == now - taken, "the difference")
        need(int(rest) == head % b and int(quotient) == q and len(quotient) == i + 1, "rest and quotient")
    lines.next(f"={a // b} r{a % b}")


def check_cmp(lines, a, b, asked):
    n = len(sizes(a, b))
    lines.next(" ".join(f"{LETTERS[i]}{digit(a, i)}{digit(b, i)}" for i in range(n)))
    same = 0
    while same < n and a // 10 ** (n - 1 - same) == b // 10 ** (n - 1 - same):
        same += 1
    for i in range(min(same + 1, n)):
        x, y = digit(a, n - 1 - i), digit(b, n - 1 - i)
        lines.next(f"{LETTERS[n - 1 - i]}{x}{'=' if i < same else '<' if a < b else '>'}{y}")
    sign = "=" if a == b else "<" if a < b else ">"
    if asked in "<>":
        lines.next(f"{asked}? {sign} {'Yes' if asked == sign else 'No'}")
    else:
        best = max(a, b) if asked == "max" else min(a, b)
        lines.next(f"{asked}? {sign} {'first' if best == a else 'second'} {best}")


def check_sort(lines, xs, word):
    lines.next(" ".join(f"{LETTERS[i]}{x:03d}" for i, x in enumerate(xs)))
    order = sorted(range(len(xs)), key=lambda i: (xs[i] if word == "min" else -xs[i], i))
    for n, i in enumerate(order, 1):
        lines.next(f"{word} {xs[i]:03d}{LETTERS[i]}: " + " ".join(LETTERS[j] + ("" if j in order[:n] else f"{x:03d}") for j, x in enumerate(xs)))


def check_count(lines, text, letter):
    lines.next(f"{letter} 0 {text}")
    for i in range(len(text)):
        lines.next(f"{text[i]}{'=' if text[i] == letter else '!'}{letter} {text[:i + 1].count(letter)} {text[i + 1:]}".rstrip(" "))


def check_length(lines, text):
    for i in range(len(text) + 1):
        lines.next(f"{text[i - 1:i]} {i} {text[i:]}".strip(" "))


def check_reverse(lines, text):
    for i in range(len(text) + 1):
        lines.next((text[i:] + " " + "".join(reversed(text[:i]))).strip(" "))


def check_operations(lines, start, changes):
    """start op y, each from the last result on, `*` and `/` of small numbers at a glance where the line says so."""
    total = start
    for op, y in changes:
        if op == "/" or op == "*" and lines.peek(r"\d+\*\d+=\d+"):
            need(op == "*" and total <= 12 and y <= 12 or op == "/" and total % y == 0 and y <= 12 and total // y <= 12, "too large for a glance")
            lines.next(f"{total}{op}{y}={total * y if op == '*' else total // y}")
            total = total * y if op == "*" else total // y
        else:
            lines.next(f"{total}{op}{y}")
            total = {"+": check_add, "-": check_sub, "*": check_mul}[op](lines, total, y)
    return total


# ---- what a question asks ---------------------------------------------------------------------------------------------------

def numbers(text):
    return [int(x.replace(",", "")) for x in re.findall(r"\d+(?:,\d{3}(?!\d))*", text)]


def verbs(ways):
    return {v for way in ways for v in way}


def word_problem(text):
    """(start, changes) of a problem in words, sentence by sentence."""
    said = [s for s in re.split(r"[.?] ?", text) if s]
    low = text.lower()
    if "dollars" in low:
        x, y = numbers(text)
        return (x, [("*", y)]) if "buys" in low else (y, [("*", x)])
    if "equally" in low or "same number in each" in low:
        x, y = numbers(text)
        return x, [("/", y)]
    found = numbers(said[0])
    if re.search("are in each of the", said[0]):
        found.reverse()
    start, changes = found[0], [("*", y) for y in found[1:]]
    for sentence in said[1:]:
        if not numbers(sentence):
            continue
        y, = numbers(sentence)
        heard = " " + sentence + " "
        lost = any(f" {v} " in heard for v in verbs(words.LOSSES) | {"takes", "taken", "eats", "lost"}) or re.search(r"gives \d+ to ", heard)
        won = any(f" {v} " in heard for v in verbs(words.GAINS) | {"more", "added", "brings"})
        need(bool(lost) != bool(won), "unclear", sentence)
        changes.append(("+" if won else "-", y))
    return start, changes


def expression(text):
    """(start, changes) of a sum in symbols or words, products and brackets first."""
    text = re.sub(r"\bplus\b", "+", re.sub(r"\bminus\b", "-", text))
    listed = re.search(r"(?i)\b(?:add|sum)\b", text)
    if listed and "+" not in text:
        x, *more = numbers(text)
        return x, [("+", y) for y in more]
    text = text.replace("x", "*").replace(" ", "")
    text = re.search(r"[\d(][\d+*()-]*", text)[0]
    if "(" in text:
        inner = re.search(r"\((\d+)([+-])(\d+)\)", text)
        c, = numbers(text.replace(inner[0], ""))
        return int(inner[1]), [(inner[2], int(inner[3])), ("*", c)]
    xs, ops = numbers(text), re.findall(r"[+*-]", text)
    if ops == ["*", "*"]:
        return xs[0], [("*", xs[1]), ("*", xs[2])]
    if "*" not in ops:
        return xs[0], list(zip(ops, xs[1:]))
    if ops[0] == "*":
        return xs[0], [("*", xs[1]), (ops[1], xs[2])]
    return xs[0], [("first", (xs[1], xs[2])), (ops[0], xs[1] * xs[2])]


def check_expression(lines, text):
    start, changes = expression(text)
    if changes[0][0] == "first":
        x, y = changes.pop(0)[1]
        check_operations(lines, x, [("*", y)])
    return check_operations(lines, start, changes)


def named(text, question):
    """Whether a question asks about this word, letter or key: it stands there alone."""
    return re.search(rf"(?i)(?<![\w-]){re.escape(text)}('s)?(?![\w-])", question)


def check_lookup(lines, book, question):
    line = lines.next()
    key = line.split("=")[0].removesuffix("?")
    need(re.search(rf"(?<![\w-]){re.escape(key)}( have)?[.?]?$", question), "the key asked for")
    code = re.search(rf"(?:^|[ \n]){re.escape(key)}(?:=|: | is )(\d+)", book)
    need(line == (f"{key}={code[1]}" if code else f"{key}?"), "the code")
    return code[1] if code else tasks.ABSENT


def check_letters(lines, word, question):
    """Counts a letter of the word, or its letters."""
    if lines.peek(f"0 {word}"):
        check_length(lines, word)
        return len(word)
    need(lines.peek(f"[a-z] 0 {word}"), "the word")
    letter = lines.lines[0][0]
    need(named(letter, question.replace(word, "")), "the letter")
    check_count(lines, word, letter)
    return word.count(letter)


def verify_question(kind, question, thought, answer):
    """Raises Wrong unless every line of the thought and the answer follow from a question that stands alone."""
    lines, xs, low = Lines(thought), numbers(question), question.lower()
    if kind == "add":
        want = check_add(lines, *xs)
    elif kind == "sub":
        want = check_sub(lines, *(reversed(xs) if "from" in low else xs))
    elif kind == "mul":
        want = check_mul(lines, *xs)
    elif kind == "div":
        a, b = reversed(xs) if "go into" in low else xs
        check_div(lines, a, b)
        want = a % b if re.search(r"mod|%|remainder (of|when)", low) else f"{a // b} remainder {a % b}"
    elif kind == "cmp":
        more = bool(re.search(r"larg|big|great|max|>", low))
        yes_or_no = re.search(r"\bis \d|^[^a-z]*\d+ [<>] \d+|: \d+ [<>] \d|(hi|hello!|hey|ok|and),? \d+ [<>] \d", low)
        check_cmp(lines, *xs, (">" if more else "<") if yes_or_no else "max" if more else "min")
        want = (max(xs) if more else min(xs)) if not yes_or_no else "Yes" if xs[0] != xs[1] and (xs[0] > xs[1]) == more else "No"
    elif kind == "sort":
        xs, down = [int(x) for x in re.findall(r"\d+", question)], bool(re.search(r"descending|largest to|high to", low))
        check_sort(lines, xs, "max" if down else "min")
        want = ", ".join(map(str, sorted(xs, reverse=down)))
    elif kind in ("count", "reverse"):
        word = lines.lines[0].split(" ")[-1]
        need(named(word, question), "the word")
        if kind == "reverse":
            check_reverse(lines, word)
        want = word[::-1] if kind == "reverse" else check_letters(lines, word, low)
    elif kind == "lookup":
        want = check_lookup(lines, question, question)
    elif kind == "chain":
        want = check_expression(lines, question)
    else:
        want = check_operations(lines, *word_problem(question))
    lines.end()
    need(str(want) == answer, "the answer", want, answer)


def verify_followup(messages, thought, answer):
    """The same for a question that leans on the last answer."""
    lines, before, last, question = Lines(thought), messages[0]["content"], messages[-2]["content"], messages[-1]["content"]
    if lines.peek(r"(max) .*|a\d{3}( [a-z]\d{3})*"):
        check_sort(lines, [int(x) for x in last.split(", ")], "max")
        want = ", ".join(reversed(last.split(", ")))
    elif re.search(r"=|:|code", before) and not re.search(r"^\W*\d", question) and lines.peek(r"[^ ]+=\d+"):
        want = check_lookup(lines, before, question)
    elif lines.peek(r"[a-z] 0 [a-z]+"):
        word = lines.lines[0].split(" ")[-1]
        need(last == word or named(word, before), "the word")
        want = check_letters(lines, word, question.lower())
    else:
        low = question.lower()
        y = 2 if "double" in low else numbers(question)[0]
        op = "*" if re.search("times|multipl|double", low) else "-" if re.search("minus|subtract|less|- ", low) else "+"
        want = check_operations(lines, int(last), [(op, y)])
    lines.end()
    need(str(want) == answer, "the answer", want, answer)


def verify(task):
    if task.kind == "followup":
        return verify_followup(task.messages, task.thought, task.answer)
    question, answer = task.messages[-1]["content"], task.answer
    if task.kind != "json":
        return verify_question(task.kind, question, task.thought, answer)
    value, = json.loads(answer).values()
    answer = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    for kind in KINDS:  # whichever it is
        try:
            return verify_question(kind, question, task.thought, answer)
        except REFUSED:
            pass
    raise Wrong("of no kind")


# ---- tests ------------------------------------------------------------------------------------------------------------------

KINDS = ["add", "sub", "mul", "div", "chain", "cmp", "sort", "count", "reverse", "lookup", "word"]
REFUSED = (Wrong, ValueError, TypeError, IndexError, AttributeError)  # a line that cannot even be read is refused too


class Steps(unittest.TestCase):
    def test_every_figure_follows_from_the_question(self):
        for kind in KINDS + ["followup", "json"]:
            rng = random.Random(f"steps/{kind}")
            for _ in range(2000):
                task = tasks.make(rng, kind)
                try:
                    verify(task)
                except REFUSED as e:
                    self.fail(f"{kind}: {e!r}\n{task.question[-300:]}\n{task.thought}\n{task.answer}")

    def test_one_changed_character_is_refused(self):
        for kind in KINDS + ["followup", "json"]:
            rng = random.Random(f"wrong/{kind}")
            for _ in range(12):
                task = tasks.make(rng, kind)
                for i, was in enumerate(task.thought):
                    alike = next(s for s in (string.digits, string.ascii_lowercase, string.ascii_uppercase, "<=>", string.punctuation + " \n") if was in s)
                    now = rng.choice(alike.replace(was, ""))
                    changed = tasks.Task(kind, task.messages, task.thought[:i] + now + task.thought[i + 1:], task.answer)
                    with self.assertRaises(REFUSED, msg=f"{kind}: {was!r} to {now!r} at {i}\n{task.question[-300:]}\n{changed.thought}"):
                        verify(changed)


if __name__ == "__main__":
    unittest.main()
