import asyncio

from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from shared import Add, Sum, api_key, model, question, report, v1

common = {"model": model, "api_base": v1, "api_key": api_key, "temperature": 0, "max_retries": 0, "max_tokens": 1500}
chat = OpenAILike(**common, is_chat_model=True, is_function_calling_model=True, should_use_structured_outputs=True, context_window=8192)
text = OpenAILike(**{**common, "max_tokens": 12}, is_chat_model=False)
messages = [ChatMessage(role="user", content=question)]


def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


tool = FunctionTool.from_defaults(add, fn_schema=Add)


async def chat_async():
    return [part.delta or "" async for part in await chat.astream_chat(messages)]


asked = chat.chat_with_tools([tool], user_msg=question, tool_required=True)
calls = chat.get_tool_calls_from_response(asked)
program = FunctionCallingProgram.from_defaults(output_cls=Sum, llm=chat, prompt_template_str=question)
report(
    text=chat.chat(messages).message.content,
    streamed="".join(part.delta or "" for part in chat.stream_chat(messages)),
    streamedAsync="".join(asyncio.run(chat_async())),
    completed=text.complete("1, 2, 3, 4, ").text,
    completedStreamed="".join(part.delta or "" for part in text.stream_complete("1, 2, 3, 4, ")),
    calls=[[call.tool_name, Add.model_validate(call.tool_kwargs).model_dump()] for call in calls],
    structured=chat.structured_predict(Sum, PromptTemplate(question)).model_dump(),
    program=program().model_dump(),
)
