defmodule SangoWeb.ErrorJSON do
  @moduledoc "The body of answers that Phoenix gives by itself when a request or a handler cannot be made sense of."

  alias SangoWeb.Errors

  @doc false
  def render(template, _assigns), do: template |> error() |> Sango.Error.body()

  defp error("404.json"), do: Errors.new("not_found", "there is nothing here: see /openapi.json")
  defp error("413.json"), do: Errors.new("too_large", "the request is too large")
  defp error("415.json"), do: Errors.new("unsupported_media_type", "a body in this format is not read here")
  defp error("4" <> _), do: Errors.new("invalid_request", "the request is malformed")
  defp error(_), do: Errors.new("internal", "a bug in Sango: the log says more")
end
