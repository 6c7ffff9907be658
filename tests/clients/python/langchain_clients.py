import asyncio

from langchain_core.tools import tool
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI, OpenAI
from shared import Add, Sum, api_key, model, question, report, v1

common = {"model": model, "api_key": api_key, "temperature": 0, "max_retries": 0, "max_tokens": 1500}


@tool(args_schema=Add)
def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


async def tried(llm, methods):
    whole = llm.invoke(question)
    chunks = list(llm.stream(question))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    asked = llm.bind_tools([add], tool_choice="add").invoke(question)
    call = asked.tool_calls[0]
    history = [HumanMessage(question), asked, ToolMessage(add.invoke(call["args"]), tool_call_id=call["id"])]
    return {
        "text": whole.text,
        "streamed": "".join(chunk.text for chunk in chunks),
        "usage": [whole.usage_metadata["output_tokens"], (total.usage_metadata or {}).get("output_tokens")],
        "async": (await llm.ainvoke(question)).text,
        "reasoning": bool(whole.additional_kwargs.get("reasoning_content")),
        "calls": [[each["name"], Add.model_validate(each["args"]).model_dump()] for each in asked.tool_calls],
        "after": len(llm.bind_tools([add], tool_choice="none").invoke(history).text) > 0,
        "structured": [llm.with_structured_output(Sum, method=method).invoke(question).model_dump() for method in methods],
    }


async def main():
    report(
        openai=await tried(ChatOpenAI(**common, base_url=v1, stream_usage=True), ["json_schema", "function_calling"]),
        responses=await tried(ChatOpenAI(**common, base_url=v1, use_responses_api=True), ["json_schema", "function_calling"]),
        deepseek=await tried(ChatDeepSeek(**common, api_base=v1, stream_usage=True), ["function_calling"]),
        completion=OpenAI(**{**common, "max_tokens": 12}, base_url=v1).invoke("1, 2, 3, 4, "),
    )


asyncio.run(main())
