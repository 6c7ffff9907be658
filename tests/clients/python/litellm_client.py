import os

# It would fetch its table of prices otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from shared import Add, Sum, api_key, base_url, model, question, report, v1

litellm.telemetry = False
litellm.suppress_debug_info = True
messages = [{"role": "user", "content": question}]
add_tool = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": Add.model_json_schema()}}
named = {"type": "function", "function": {"name": "add"}}


def tried(provider, api_base):
    asked = {"model": f"{provider}/{model}", "api_base": api_base, "api_key": api_key, "messages": messages, "temperature": 0}
    asked |= {"max_tokens": 1500, "num_retries": 0}
    whole = litellm.completion(**asked)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=messages)
    called = litellm.completion(**asked, tools=[add_tool], tool_choice=named).choices[0].message.tool_calls
    streamed_call = litellm.stream_chunk_builder(list(litellm.completion(**asked, tools=[add_tool], tool_choice=named, stream=True)))
    structured = litellm.completion(**asked, response_format=Sum).choices[0].message.content
    return {
        "text": whole.choices[0].message.content,
        "reasoning": bool(getattr(whole.choices[0].message, "reasoning_content", None)),
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "usage": [whole.usage.completion_tokens, rebuilt.usage.completion_tokens],
        "calls": [[call.function.name, Add.model_validate_json(call.function.arguments).model_dump()] for call in called],
        "streamedCalls": [
            [call.function.name, Add.model_validate_json(call.function.arguments).model_dump()]
            for call in streamed_call.choices[0].message.tool_calls
        ],
        "structured": Sum.model_validate_json(structured).model_dump(),
    }


prompt = {"model": f"text-completion-openai/{model}", "api_base": v1, "api_key": api_key, "prompt": "1, 2, 3, 4, ", "max_tokens": 12}
ask = {"model": f"openai/{model}", "api_base": v1, "api_key": api_key, "input": question, "temperature": 0}
report(
    openai=tried("openai", v1),
    hosted_vllm=tried("hosted_vllm", v1),
    deepseek=tried("deepseek", v1),
    anthropic=tried("anthropic", base_url),
    completion=litellm.text_completion(**prompt, temperature=0).choices[0].text,
    completionStreamed="".join(
        chunk.choices[0].text or "" for chunk in litellm.text_completion(**prompt, temperature=0, stream=True)
    ),
    responses=litellm.responses(**ask).output_text,
    responsesStreamed=[event.type for event in litellm.responses(**ask, stream=True)][-1],
)
