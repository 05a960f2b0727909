defmodule SangoWeb.Range do
  @moduledoc "The header `Range`, of one range of bytes."

  @doc """
  The first and the last byte of a range within `size` bytes.

      iex> SangoWeb.Range.parse(nil, 10)
      :whole
      iex> SangoWeb.Range.parse("bytes=2-4", 10)
      {2, 4}
      iex> SangoWeb.Range.parse("bytes=2-", 10)
      {2, 9}
      iex> SangoWeb.Range.parse("bytes=-3", 10)
      {7, 9}
      iex> SangoWeb.Range.parse("bytes=10-", 10)
      :unsatisfiable
  """
  @spec parse(String.t() | nil, non_neg_integer) ::
          :whole | {non_neg_integer, non_neg_integer} | :unsatisfiable
  def parse(nil, _size), do: :whole

  def parse(header, size) do
    with ["bytes", range] <- String.split(header, "=", parts: 2),
         [first, last] <- range |> String.trim() |> String.split("-"),
         {first, last} <- bounds(whole(first), whole(last), size),
         true <- first <= last and first < size do
      {first, last}
    else
      _ -> :unsatisfiable
    end
  end

  defp bounds(:none, count, size) when is_integer(count) and count > 0, do: {max(size - count, 0), size - 1}
  defp bounds(first, :none, size) when is_integer(first), do: {first, size - 1}
  defp bounds(first, last, size) when is_integer(first) and is_integer(last), do: {first, min(last, size - 1)}
  defp bounds(_first, _last, _size), do: :wrong

  defp whole(""), do: :none

  defp whole(digits) do
    case Integer.parse(digits) do
      {number, ""} when number >= 0 -> number
      _ -> :wrong
    end
  end
end
