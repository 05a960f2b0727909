defmodule SangoWeb.OpsFormat do
  @moduledoc "Numbers and times of the operations page in words."

  @doc """
  A size, of which three digits matter.

      iex> SangoWeb.OpsFormat.bytes(812)
      "812 B"
      iex> SangoWeb.OpsFormat.bytes(13_957_356)
      "13.3 MiB"
      iex> SangoWeb.OpsFormat.bytes(nil)
      "unknown"
  """
  @spec bytes(non_neg_integer | nil) :: String.t()
  def bytes(nil), do: "unknown"
  def bytes(bytes) when bytes < 1024, do: "#{bytes} B"
  def bytes(bytes), do: scaled(bytes / 1024, ["KiB", "MiB", "GiB", "TiB"])

  defp scaled(value, [unit | [_ | _] = larger]) do
    if value < 1024, do: "#{digits(value)} #{unit}", else: scaled(value / 1024, larger)
  end

  defp scaled(value, [unit]), do: "#{digits(value)} #{unit}"
  defp digits(value) when value < 100, do: :erlang.float_to_binary(value, decimals: 1)
  defp digits(value), do: Integer.to_string(round(value))

  @doc """
  A span of time, given in milliseconds.

      iex> SangoWeb.OpsFormat.span(67)
      "67 ms"
      iex> SangoWeb.OpsFormat.span(4_210)
      "4.2 s"
      iex> SangoWeb.OpsFormat.span(125_000)
      "2 min 5 s"
      iex> SangoWeb.OpsFormat.span(7_500_000)
      "2 h 5 min"
      iex> SangoWeb.OpsFormat.span(200_000_000)
      "2 d 7 h"
  """
  @spec span(integer) :: String.t()
  def span(ms) when ms < 0, do: "0 ms"
  def span(ms) when ms < 1_000, do: "#{ms} ms"
  def span(ms) when ms < 60_000, do: "#{:erlang.float_to_binary(ms / 1_000, decimals: 1)} s"
  def span(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)} min #{rem(div(ms, 1_000), 60)} s"
  def span(ms) when ms < 86_400_000, do: "#{div(ms, 3_600_000)} h #{rem(div(ms, 60_000), 60)} min"
  def span(ms), do: "#{div(ms, 86_400_000)} d #{rem(div(ms, 3_600_000), 24)} h"

  @doc """
  How long ago something was, no finer than the page is refreshed.

      iex> SangoWeb.OpsFormat.ago(10_000, 11_999)
      "just now"
      iex> SangoWeb.OpsFormat.ago(0, 42_500)
      "42 s ago"
      iex> SangoWeb.OpsFormat.ago(0, 7_500_000)
      "2 h 5 min ago"
  """
  @spec ago(integer, integer) :: String.t()
  def ago(at, now) when now - at < 5_000, do: "just now"
  def ago(at, now) when now - at < 60_000, do: "#{div(now - at, 1_000)} s ago"
  def ago(at, now) when now - at < 3_600_000, do: "#{div(now - at, 60_000)} min ago"
  def ago(at, now), do: span(now - at) <> " ago"

  @doc """
  Who waits for a job, as the queue knows its clients.

      iex> SangoWeb.OpsFormat.client({:ip, {192, 168, 0, 7}})
      "192.168.0.7"
      iex> SangoWeb.OpsFormat.client(:backlog)
      ":backlog"
  """
  @spec client(term) :: String.t()
  def client({:ip, ip}), do: ip |> :inet.ntoa() |> to_string()

  def client({:socket, ref}) when is_reference(ref) do
    # References have no order that means anything to people; their hash is short.
    "socket " <> (ref |> :erlang.phash2(0x1000000) |> Integer.to_string(36) |> String.downcase())
  end

  def client(other), do: inspect(other, limit: 3, printable_limit: 30)
end
