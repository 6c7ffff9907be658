import anthropic
from shared import Add, Sum, api_key, base_url, model, question, report

client = anthropic.Anthropic(base_url=base_url, api_key=api_key, max_retries=0)
messages = [{"role": "user", "content": question}]
asked = {"model": model, "max_tokens": 1500, "messages": messages}
greedy = {"extra_body": {"temperature": 0}}
thinking = {"type": "enabled", "budget_tokens": 1024}
add_tool = {"name": "add", "description": "Adds.", "input_schema": Add.model_json_schema()}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def talk():
    plain = client.messages.create(**asked, **greedy)
    whole = client.messages.create(**asked, thinking=thinking, **greedy)
    with client.messages.stream(**asked, thinking=thinking, **greedy) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    return {
        "plain": [block.type for block in plain.content],
        "types": [block.type for block in whole.content],
        "text": text_of(whole),
        "streamed": text,
        "same": streamed.model_dump()["content"] == whole.model_dump()["content"],
        "stop": [plain.stop_reason, whole.stop_reason, streamed.stop_reason],
        "usage": [whole.usage.output_tokens, streamed.usage.output_tokens],
    }


def tool_calls():
    forced = {**asked, "tools": [add_tool], "tool_choice": {"type": "tool", "name": "add"}}
    whole = client.messages.create(**forced, **greedy)
    with client.messages.stream(**forced, **greedy) as stream:
        streamed = stream.get_final_message()
    use = whole.content[-1]
    add = Add.model_validate(use.input)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": str(add.a + add.b)}
    history = [*messages, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    after = client.messages.create(**{**asked, "messages": history}, tools=[add_tool], tool_choice={"type": "none"}, **greedy)
    return {
        "stop": [whole.stop_reason, streamed.stop_reason, after.stop_reason],
        "call": [use.name, add.model_dump()],
        "same": streamed.content[-1].input == use.input,
    }


def errors():
    caught = []
    for wrong in ({"model": "nobody"}, {"max_tokens": 0}):
        try:
            client.messages.create(**{**asked, **wrong})
        except anthropic.APIStatusError as error:
            caught.append([type(error).__name__, error.body["error"]["type"]])
    return caught


report(
    version=anthropic.__version__,
    talk=talk(),
    tools=tool_calls(),
    parsed=client.messages.parse(**asked, output_format=Sum, **greedy).parsed_output.model_dump(),
    counted=client.messages.count_tokens(model=model, messages=messages).input_tokens,
    errors=errors(),
)
