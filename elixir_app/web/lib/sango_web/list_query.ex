defmodule SangoWeb.ListQuery do
  @moduledoc "Which jobs to list: `?state=&limit=&before=`, and the payload of `list` on the socket."

  alias SangoWeb.Errors

  @fields ["state", "limit", "before"]

  @doc "Reads the parameters of an address, which are all text."
  @spec from_params(map) :: {:ok, map} | {:error, Sango.Error.t()}
  def from_params(%{"limit" => limit} = params) when is_binary(limit) do
    case Integer.parse(limit) do
      {limit, ""} -> from_json(%{params | "limit" => limit})
      _ -> invalid("`limit` is `#{limit}`: give a number")
    end
  end

  def from_params(params), do: from_json(params)

  @doc "Reads a JSON value."
  @spec from_json(term) :: {:ok, map} | {:error, Sango.Error.t()}
  def from_json(params) when is_map(params) do
    with :ok <- known(Map.keys(params) -- @fields),
         {:ok, state} <- text(params, "state"),
         {:ok, before} <- text(params, "before"),
         {:ok, limit} <- limit(params["limit"]) do
      {:ok, %{state: state, before: before, limit: limit}}
    end
  end

  def from_json(other), do: invalid("not a list query: #{inspect(other, limit: 5, printable_limit: 50)}")

  defp known([]), do: :ok
  defp known([field | _]), do: invalid("unknown field `#{field}`: there are `state`, `limit` and `before`")

  # A field that a form leaves empty says nothing.
  defp text(params, field) do
    case params[field] do
      empty when empty in [nil, ""] -> {:ok, nil}
      text when is_binary(text) -> {:ok, text}
      _ -> invalid("`#{field}` is not text")
    end
  end

  defp limit(nil), do: {:ok, 50}
  defp limit(limit) when limit in 1..200, do: {:ok, limit}

  defp limit(limit) when is_integer(limit) and limit >= 0 do
    {:error, Errors.new("invalid_option", "`limit` is #{limit}, outside 1 to 200")}
  end

  defp limit(_limit), do: invalid("`limit` is not a number from 1 to 200")
  defp invalid(message), do: {:error, Errors.new("invalid_request", message)}
end
