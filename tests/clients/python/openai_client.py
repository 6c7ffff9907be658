import asyncio
import json

import openai
from shared import Add, Sum, api_key, model, question, report, v1

client = openai.OpenAI(base_url=v1, api_key=api_key, max_retries=0)
messages = [{"role": "user", "content": question}]
asked = {"model": model, "messages": messages, "temperature": 0}
tools = [openai.pydantic_function_tool(Add, name="add")]
named = {"type": "function", "function": {"name": "add"}}


def chat():
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        streamed = stream.get_final_completion()
    message = whole.choices[0].message
    return {
        "content": message.content,
        "reasoning": message.reasoning_content,
        "finish": whole.choices[0].finish_reason,
        "streamed": "".join(deltas),
        "usage": whole.usage.model_dump(),
        "streamedUsage": streamed.usage.model_dump(),
    }


async def chat_async():
    async with openai.AsyncOpenAI(base_url=v1, api_key=api_key, max_retries=0) as concurrent:
        answers = await asyncio.gather(*(concurrent.chat.completions.create(**asked) for _ in range(4)))
        stream = await concurrent.chat.completions.create(**asked, stream=True)
        chunks = [chunk async for chunk in stream]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return [answer.choices[0].message.content for answer in answers] + [streamed]


def tool_calls():
    forced = client.chat.completions.parse(**asked, tools=tools, tool_choice=named)
    with client.chat.completions.stream(**asked, tools=tools, tool_choice="required", parallel_tool_calls=False) as stream:
        streamed = stream.get_final_completion().choices[0]
    call = forced.choices[0].message.tool_calls[0]
    add = call.function.parsed_arguments
    history = [*messages, forced.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": str(add.a + add.b)}]
    after = client.chat.completions.create(**{**asked, "messages": history}, tools=tools, tool_choice="none")
    return {
        "call": [call.function.name, add.model_dump()],
        "streamedCall": [(each.function.name, each.function.parsed_arguments.model_dump()) for each in streamed.message.tool_calls],
        "finish": [forced.choices[0].finish_reason, streamed.finish_reason, after.choices[0].finish_reason],
    }


def schemas():
    parsed = client.chat.completions.parse(**asked, response_format=Sum).choices[0].message.parsed
    anything = client.chat.completions.create(**asked, response_format={"type": "json_object"}, max_tokens=900)
    choice = anything.choices[0]
    return {"parsed": parsed.model_dump(), "object": json.loads(choice.message.content) if choice.finish_reason == "stop" else {}}


def completions():
    prompt = {"model": model, "prompt": "1, 2, 3, 4, ", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**prompt, logprobs=2, n=2, echo=False)
    streamed = client.completions.create(**prompt, stream=True)
    return {
        "text": [choice.text for choice in whole.choices],
        "logprobs": len(whole.choices[0].logprobs.token_logprobs),
        "streamed": "".join(chunk.choices[0].text for chunk in streamed),
    }


def responses():
    ask = {"model": model, "input": question, "temperature": 0}
    whole = client.responses.create(**ask)
    with client.responses.stream(**ask) as stream:
        events = list(stream)
        final = stream.get_final_response()
    parsed = client.responses.parse(**ask, text_format=Sum).output_parsed
    function = {"type": "function", "name": "add", "parameters": Add.model_json_schema(), "strict": True}
    called = client.responses.create(**ask, tools=[function], tool_choice={"type": "function", "name": "add"})
    call = next(item for item in called.output if item.type == "function_call")
    return {
        "status": whole.status,
        "types": [item.type for item in whole.output],
        "text": whole.output_text,
        "streamed": final.output_text,
        "numbers": [event.sequence_number for event in events] == list(range(len(events))),
        "lastEvent": events[-1].type,
        "parsed": parsed.model_dump(),
        "call": Add.model_validate_json(call.arguments).model_dump(),
    }


def errors():
    caught = []
    for wrong in ({"model": "nobody"}, {"temperature": 9}, {"messages": []}):
        try:
            client.chat.completions.create(**{**asked, **wrong})
        except openai.APIStatusError as error:
            caught.append([type(error).__name__, error.code, error.param])
    return caught


report(
    version=openai.__version__,
    models=[each.id for each in client.models.list()],
    model=client.models.retrieve(model).id,
    chat=chat(),
    concurrent=asyncio.run(chat_async()),
    tools=tool_calls(),
    schemas=schemas(),
    completions=completions(),
    responses=responses(),
    errors=errors(),
)
