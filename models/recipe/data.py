"""Packed training batches, made on the fly: whole documents end to end, attention stays inside each.

Batch i of a seed is always the same, whoever makes it, so a run that stops at step i goes on with batch i. Workers make batches
ahead of the trainer while the accelerator computes."""
import collections
import multiprocessing
import random

import numpy as np

import chat
import tasks

MAX_DOCUMENT = 4608


def pack(documents, tokens, max_documents):
    """Arrays of one packed batch from (prompt, response, weight) documents that fit in `tokens`:
    ids; positions inside each document; the loss weight of each token; document bounds, padded with empty documents."""
    ids = np.full(tokens, chat.PAD, np.int16)
    position = np.zeros(tokens, np.int16)
    weight = np.zeros(tokens, np.uint8)
    bounds, at = [0], 0
    for prompt, response, w in documents:
        n = len(prompt) + len(response)
        ids[at:at + n] = prompt + response
        position[at:at + n] = np.arange(n)
        weight[at + len(prompt):at + n] = w
        at += n
        bounds.append(at)
    while at < tokens:  # padding is documents of its own, so that no document is longer than the longest allowed
        n = min(MAX_DOCUMENT, tokens - at)
        position[at:at + n] = np.arange(n)
        at += n
        bounds.append(at)
    assert len(bounds) <= max_documents + 1, len(bounds)
    bounds += [tokens] * (max_documents + 1 - len(bounds))
    return ids, position, weight, np.array(bounds, np.int32)


def training_batch(seed, index, tokens, even_from):
    """Batch `index`; from `even_from` on every kind of task is asked equally often."""
    rng = random.Random(f"{seed}/{index}")
    documents, left, misses = [], tokens, 0
    while misses < 8 and len(documents) < max_documents(tokens) - 8:
        task = tasks.training_task(rng, evenly=index >= even_from)
        prompt, response = chat.prompt_ids(task.messages, task.thinking), chat.response_ids(task)
        n = len(prompt) + len(response)
        if n > min(left, MAX_DOCUMENT):
            misses += 1
            continue
        # Short responses count more per token: a looked-up code of 4 digits is worth as much attention as a 200-token sum.
        documents.append((prompt, response, max(1, min(4, 100 // len(response)))))
        left -= n
    return pack(documents, tokens, max_documents(tokens))


def max_documents(tokens):
    return max(16, tokens // 160)


def batches(seed, start, tokens, workers, even_from, ahead=48):
    """Batches start, start + 1, ... in order; made by worker processes, or here when there are none."""
    if not workers:
        while True:
            yield training_batch(seed, start, tokens, even_from)
            start += 1
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        waiting = collections.deque()
        while True:
            while len(waiting) < ahead:
                waiting.append(pool.apply_async(training_batch, (seed, start, tokens, even_from)))
                start += 1
            yield waiting.popleft().get()
