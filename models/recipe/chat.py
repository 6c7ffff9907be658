"""Text to token ids: bytes are themselves, the DeepSeek specials follow. Conversations are laid out as R1's template has them."""
import json
import os

BOS, EOS, USER, ASSISTANT, THINK, END_THINK, PAD = range(256, 263)
VOCABULARY = 320  # rounded up; the rest is unused

# The same layout for Hugging Face and for the gateway. `thinking: false` closes the think block before the model can fill it.
TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}"
    "{% if thinking is defined and not thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}")

TOKENIZER_CONFIG = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜▁pad▁｜>",
                    "model_max_length": 8192, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}


def prompt_ids(messages, thinking=True):
    ids = [BOS]
    for m in messages:
        text = list(m["content"].encode())
        if m["role"] == "user":
            text = [USER] + text
        elif m["role"] == "assistant":
            text = [ASSISTANT] + text + [EOS]
        ids += text
    ids += [ASSISTANT, THINK, 10]
    return ids if thinking else ids + [10, END_THINK, 10, 10]


def response_ids(task):
    """What the model should say after `prompt_ids`."""
    answer = list(task.answer.encode()) + [EOS]
    return list(task.thought.encode()) + [10, END_THINK, 10, 10] + answer if task.thinking else answer


def text(ids):
    return bytes(t for t in ids if t < 256).decode(errors="replace")


def split_response(ids, thinking=True):
    """A response's thought and answer as text; no answer when the thought never ended or the turn did not."""
    if not ids or ids[-1] != EOS:
        return text(ids), ""
    if not thinking:
        return "", text(ids).strip()
    if END_THINK not in ids:
        return text(ids), ""
    at = ids.index(END_THINK)
    return text(ids[:at]).strip(), text(ids[at + 1:]).strip()


def well_formed(ids, thinking=True):
    """R1's format reward: one think block, closed once, followed by a non-empty answer and the end of the turn."""
    if not ids or ids[-1] != EOS:
        return False
    body = ids[:-1]
    if any(t >= 256 and t != END_THINK for t in body):
        return False
    if not thinking:
        return END_THINK not in body and len(body) > 0
    return body.count(END_THINK) == 1 and len(text(body[body.index(END_THINK) + 1:]).strip()) > 0


def write_tokenizer(folder):
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "tokenizer", "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = f.read()
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        f.write(tokenizer)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(TOKENIZER_CONFIG, f, ensure_ascii=False, indent=1)
